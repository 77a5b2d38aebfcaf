import pytest

from retrieval.language.numerals import NUMBER_WORDS, is_roman, merge_spelled, read_chunk


def numbers_of(text: str) -> list[str]:
    """The numbers of a text of words between spaces."""
    pieces = [
        piece
        for chunk in text.casefold().split()
        for piece in (
            read_chunk(chunk) if any(map(str.isdigit, chunk)) else [("word", chunk, False)]
        )
    ]
    return [number for kind, number, _ in merge_spelled(pieces) if kind == "number"]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("twenty five apples", ["25"]),
        ("one hundred and six", ["106"]),
        ("three million two thousand", ["3002000"]),
        ("2.5 million", ["2500000"]),
        ("five lakh", ["500000"]),
        ("two crore", ["20000000"]),
        ("the third time", ["3"]),
        ("half a dozen", ["0.5", "12"]),
        ("wait a second", []),
        ("one of them", []),
        ("1,000 or 007 or 2.50", ["1000", "7", "2.5"]),
        ("at 7 pm", ["19:00"]),
        ("at 12am", ["00:00"]),
        ("40k", ["40000"]),
        ("version v1.2.3", ["1.2.3"]),
        ("D-7781", ["d7781"]),
    ],
)
def test_numbers_have_one_form(text: str, numbers: list[str]) -> None:
    assert numbers_of(text) == numbers


def test_number_words_are_whole_and_ordinal() -> None:
    assert {"zero", "nineteen", "ninety", "hundred", "billion", "lakh", "first", "dozen"} <= (
        NUMBER_WORDS
    )


@pytest.mark.parametrize(("chunk", "expected"), [("II", True), ("XV", True), ("I", False)])
def test_roman_numbers_have_two_letters_at_least(chunk: str, expected: bool) -> None:
    assert is_roman(chunk) is expected
    assert not is_roman(chunk.lower())
