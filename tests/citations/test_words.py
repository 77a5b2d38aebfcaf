import pytest

from api.citations.words import read_sentence


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("Twenty-five of 40 were sold.", {"25", "40"}),
        ("It cost 3 million.", {"3000000"}),
        ("It cost five lakh rupees.", {"500000"}),
        ("One of them stayed.", set()),
        ("Founded in 1535, twice rebuilt.", {"1535", "2"}),
    ],
)
def test_numbers_are_read_from_digits_and_words(text: str, numbers: set[str]) -> None:
    assert read_sentence(text).numbers == numbers


def test_names_are_capitals_within_the_sentence_and_digits() -> None:
    assert read_sentence("Rain fell on Lima.").names == {"lima"}


def test_the_word_after_a_negation_is_negated() -> None:
    assert read_sentence("It was not built by them.").negated == {"build"}
    assert read_sentence("Not only built, but paid.").negated == frozenset()
    assert read_sentence("Das ist nicht gebaut.").negated == {"gebaut"}
