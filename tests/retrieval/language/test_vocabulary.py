import pytest

from retrieval.language.opposites import sides
from retrieval.language.synonyms import synonyms
from retrieval.language.vocabulary import (
    FUNCTION_WORDS,
    NEGATIONS,
    OPPOSED_PREFIXES,
    PREFIXES,
    SPELLINGS,
    people,
    stem,
)


@pytest.mark.parametrize(
    ("word", "stemmed"),
    [("payments", "payment"), ("bought", "buy"), ("children", "child"), ("paid", "pay")],
)
def test_stem_undoes_regular_and_irregular_inflection(word: str, stemmed: str) -> None:
    assert stem(word) == stemmed


def test_negations_are_of_every_language() -> None:
    assert {"not", "without", "nicht", "ohne", "pas", "sans", "nunca"} <= NEGATIONS
    assert "t" not in NEGATIONS  # "t-shirt" negates nothing


def test_opposed_prefixes_hold_both_ways() -> None:
    assert ("hyper", "hypo") in OPPOSED_PREFIXES
    assert ("hypo", "hyper") in OPPOSED_PREFIXES
    assert {"hypo", "hyper", "un"} <= set(PREFIXES)
    assert list(PREFIXES) == sorted(PREFIXES)


def test_spellings_open_contractions_without_apostrophe() -> None:
    assert SPELLINGS["cant"] == ("can", "not")
    assert SPELLINGS["doesnt"] == ("does", "not")
    assert SPELLINGS["usa"] == ("us",)


def test_function_words_are_single_words() -> None:
    assert {"the", "not", "there's"} <= FUNCTION_WORDS


def test_people_of_one_line_are_one_person() -> None:
    assert people()[stem("mum")] == people()[stem("mother")] != people()[stem("father")]


def test_opposites_are_two_sides_of_one_group() -> None:
    assert are_on_two_sides("approve", "declined")
    assert are_on_two_sides("december", "november")
    assert not are_on_two_sides("approve", "accept")


def are_on_two_sides(one: str, other: str) -> bool:
    of_one = dict(sides()[stem(one)])
    return any(of_one.get(group, side) != side for group, side in sides()[stem(other)])


def test_synonyms_share_a_group() -> None:
    groups = synonyms()
    assert groups[stem("purchase")] & groups[stem("buying")]
    assert not groups[stem("purchase")] & groups[stem("taxi")]
