import pytest

from retrieval.language.likeness import are_alike, are_opposite, is_same_name, is_typo
from retrieval.language.vocabulary import stem


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("safe", "unsafe", True),
        ("include", "exclude", True),
        ("hypothyroidism", "hyperthyroidism", True),
        ("upload", "download", True),
        ("safe", "safety", False),
        ("card", "account", False),
    ],
)
def test_are_opposite_by_prefix(one: str, other: str, expected: bool) -> None:
    assert are_opposite(stem(one), stem(other)) is expected
    assert are_opposite(stem(other), stem(one)) is expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("buy", "purchase", True),
        ("prescription", "perscription", True),
        ("organise", "organisation", True),
        ("aspirin", "ibuprofen", False),
    ],
)
def test_are_alike_by_group_root_or_typing_error(one: str, other: str, expected: bool) -> None:
    assert are_alike(stem(one), stem(other)) is expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("india", "indian", True),
        ("austria", "australia", False),
        ("nationwide", "nationwdie", True),
    ],
)
def test_names_are_compared_more_strictly(one: str, other: str, expected: bool) -> None:
    assert is_same_name(one, other) is expected


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ("adress", "address", True),
        ("chnage", "change", True),
        ("color", "colour", True),
        ("debit", "credit", False),
        ("table", "cable", False),
        ("prednisone", "prednisolone", False),
    ],
)
def test_typo_is_one_slip(x: str, y: str, expected: bool) -> None:
    assert is_typo(x, y) is expected is is_typo(y, x)
