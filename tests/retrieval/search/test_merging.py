import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.build.fresh import with_gaps
from retrieval.search.merging import MERGED_CHARS, distinct, merge
from retrieval.types import Hit, Passage, Scores

DOCUMENT = "One two three.\n\nFour five six seven.  Eight nine ten. Eleven twelve."


def cut(start: int, end: int, *, gap: str | None = None, doc_id: str = "d") -> Passage:
    text = DOCUMENT[start:end]
    return Passage(f"{doc_id}:{start}", doc_id, "T", text, start, end, gap=gap)


def hits(*passages: Passage) -> list[Hit]:
    return [
        Hit(passage, rank, Scores(1 / rank, None, 1 / rank))
        for rank, passage in enumerate(passages, 1)
    ]


def spans(sources: list[Hit]) -> list[tuple[str, int, int]]:
    return [(hit.passage.doc_id, hit.passage.start, hit.passage.end) for hit in sources]


def test_merge_overlapping_cuts_is_a_cut_of_the_document():
    for pair in [(cut(0, 30), cut(16, 53)), (cut(16, 53), cut(0, 30))]:
        merged = merge(*pair)
        assert (merged.start, merged.end, merged.text) == (0, 53, DOCUMENT[:53])
        assert merged.passage_id == pair[0].passage_id


def test_merge_parted_by_known_white_space_keeps_it():
    merged = merge(cut(16, 36, gap="\n\n"), cut(38, 53, gap="  "))
    assert (merged.text, merged.gap) == (DOCUMENT[16:53], "\n\n")


def test_merge_one_inside_the_other_is_the_longer():
    assert merge(cut(20, 30), cut(16, 53)).text == DOCUMENT[16:53]
    assert merge(cut(16, 53), cut(20, 30)).text == DOCUMENT[16:53]


@pytest.mark.parametrize(
    "other",
    [
        cut(38, 53, doc_id="other"),
        cut(38, 53),
        cut(38, 53, gap=" "),
        cut(54, 60, gap=" "),
        Passage("d:1", "d", "T", "not what stands there", 20, 41),
        Passage("d:1", "d", "T", "more text than its span", 20, 25),
    ],
    ids=["other document", "gap not known", "gap too short", "not next", "differs", "no cut"],
)
def test_merge_what_does_not_touch_is_none(other):
    assert merge(cut(16, 36), other) is None


def test_merge_too_long_is_none():
    long = Passage("d:0", "d", "T", "a" * MERGED_CHARS, 0, MERGED_CHARS)
    after = Passage("d:1", "d", "T", "ab", MERGED_CHARS - 1, MERGED_CHARS + 1)
    assert merge(long, after) is None


@pytest.mark.parametrize(
    ("better", "other", "merged"),
    [
        ("Doc > A", "Doc > B", "Doc"),
        ("Doc > A > x", "Doc > A > y", "Doc > A"),
        ("Doc", "Doc > B", "Doc"),
        ("Alpha", "Beta", "Alpha"),
        ("Doc > Abc", "Doc > Abd", "Doc"),
    ],
)
def test_merge_title_is_the_section_both_are_in(better, other, merged):
    first = Passage("d:0", "d", better, "abc", 0, 3)
    second = Passage("d:1", "d", other, "cde", 2, 5)
    assert merge(first, second).title == merged


@given(st.text("ab \n", max_size=60), st.data())
def test_merge_any_two_cuts_give_what_the_document_has(text, data):
    bound = st.integers(0, len(text))
    (a, b), (c, d) = (sorted((data.draw(bound), data.draw(bound))) for _ in range(2))
    first = Passage("d:0", "d", "", text[a:b], a, b)
    second = Passage("d:1", "d", "", text[c:d], c, d)
    merged = merge(first, second)
    if merged is not None:
        assert merged.text == text[merged.start : merged.end]
        assert (merged.start, merged.end) == (min(a, c), max(b, d))
    else:
        assert max(a, c) > min(b, d)


def test_distinct_neighbours_become_one_and_the_next_moves_up():
    ranking = hits(
        cut(16, 36), cut(0, 14, doc_id="x"), cut(38, 53, gap="  "), cut(0, 8, doc_id="y")
    )
    sources = distinct(ranking, 3)
    assert spans(sources) == [("d", 16, 53), ("x", 0, 14), ("y", 0, 8)]
    assert [hit.rank for hit in sources] == [1, 2, 3]
    assert sources[0].scores == ranking[0].scores


def test_distinct_the_middle_one_joins_all_three():
    ranking = hits(cut(38, 53, gap="  "), cut(0, 14), cut(16, 36, gap="\n\n"))
    assert spans(distinct(ranking, 3)) == [("d", 0, 53)]
    assert distinct(ranking, 3)[0].scores == ranking[0].scores


def said(doc_id: str, text: str, title: str = "") -> Passage:
    return Passage(f"{doc_id}:0", doc_id, title, text, 0, len(text))


LONG = "the committee met again and agreed on the budget for the new bridge over the river " * 2


def test_distinct_repeats_are_left_out():
    ranking = hits(
        said("a", LONG),
        said("b", LONG.upper()),
        said("c", LONG + "today"),
        said("d", "other words"),
    )
    assert [hit.passage.doc_id for hit in distinct(ranking, 4)] == ["a", "d"]


@pytest.mark.parametrize(
    "other",
    [
        "in 2020 " + LONG,
        "not " + LONG,
        "don't " + LONG,
        "nobody " + LONG,
        "nicht " + LONG,
        LONG[:60],
    ],
)
def test_distinct_a_number_or_a_no_makes_another_passage(other):
    ranking = hits(said("a", "in 2019 " + LONG if "2020" in other else LONG), said("b", other))
    assert len(distinct(ranking, 2)) == 2


def test_distinct_short_texts_under_other_titles_stay():
    ranking = hits(said("a", "No changes.", "Version 1"), said("b", "No changes.", "Version 2"))
    assert len(distinct(ranking, 2)) == 2


def test_distinct_k_cuts_and_less_is_fine():
    ranking = hits(said("a", "one"), said("b", "two"), said("c", "three"))
    assert [hit.passage.doc_id for hit in distinct(ranking, 2)] == ["a", "b"]
    assert len(distinct(ranking, 9)) == 3
    assert distinct([], 3) == []


def test_with_gaps_knows_white_space_alone():
    passages = with_gaps(DOCUMENT, [cut(0, 14), cut(16, 36), cut(30, 53), cut(60, 70)])
    assert [passage.gap for passage in passages] == [None, "\n\n", None, None]
    assert with_gaps("", []) == []
