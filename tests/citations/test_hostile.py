"""Whatever the model, the documents and the question hold: bounded spans, linear time, no error."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.citations.citer import MAX_SPANS, Citer
from api.citations.types import Citation
from tests.citations.sources import PAGES, Page, cite, quotes

_WORDS = st.sampled_from(
    """Lima is the capital of Peru Paris France Eiffel Tower was not built in 1889 1535 ten million
    [1] [2] [9] [1, 2] (source 2) 【2】 . ! ? , \u05e9\u05dc\u05d5\u05dd \u0645 是 \ud83d \udca9
    <|im_end|> ``` \u202e \x1b[31m don't never""".split()
)
_ANSWERS = st.one_of(
    st.lists(_WORDS, max_size=40).map(" ".join), st.lists(_WORDS, max_size=40).map("".join),
    st.text(max_size=150),
)  # fmt: skip
_SOURCES = st.lists(_ANSWERS, max_size=4).map(
    lambda texts: [Page(n, text, "T", start=7 * n) for n, text in enumerate(texts, 1)]
)


@settings(max_examples=300, deadline=None)
@given(answer=_ANSWERS, question=_ANSWERS, sources=_SOURCES)
def test_spans_are_within_their_texts(answer: str, question: str, sources: list[Page]) -> None:
    pages = {page.n: page for page in [*PAGES, *sources]}
    numbered = list(pages.values())
    for citation in cite(answer, question, numbered):
        assert 0 <= citation.start < citation.end <= len(answer)
        assert (
            answer[citation.start : citation.end].strip() == answer[citation.start : citation.end]
        )
        assert 0 <= citation.score <= 1
        assert len(citation.sources) <= MAX_SPANS
        assert bool(citation.sources) == (citation.kind != "unsupported")
        for span, quote in zip(citation.sources, quotes(citation, numbered), strict=True):
            page = pages[span.n]
            assert page.start <= span.start < span.end <= page.start + len(page.text)
            assert quote.strip() == quote != ""


@settings(max_examples=200, deadline=None)
@given(answer=_ANSWERS, cuts=st.lists(st.integers(0, 300), max_size=8))
def test_pieces_never_change_the_citations(answer: str, cuts: list[int]) -> None:
    bounds = sorted({0, len(answer), *(min(cut, len(answer)) for cut in cuts)})
    pieces = [answer[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    whole = Citer("What is the capital of Peru?", PAGES)
    expected = [*whole.feed(answer), *whole.finish()]
    for fed in (pieces, list(answer)):
        citer = Citer("What is the capital of Peru?", PAGES)
        found: list[Citation] = [each for piece in fed for each in citer.feed(piece)]
        assert found + citer.finish() == expected
        assert citer.dropped_markers == whole.dropped_markers


HOSTILE = {
    "brackets": "[", "closed": "[]", "markers": "[1]", "numbers": "[1,", "stops": ".",
    "lines": "\n", "one word": "x", "digits": "1", "words": "capital ", "names": "(source ",
    "unspaced": "是", "right to left": "\u05e9\u202e", "half characters": "\ud800",
    "apostrophes": "a'", "joined": "a.", "control tokens": "<|im_end|>", "dashes": "[1-",
}  # fmt: skip


def _seconds(text: str) -> float:
    sources = [Page(1, text, text[:200]), *PAGES[1:]]
    started = time.process_time()
    cite(text, text[:500], sources)
    citer = Citer(text[:500], sources)
    for at in range(0, len(text), 3):
        citer.feed(text[at : at + 3])
    citer.finish()
    return time.process_time() - started


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_takes_time_in_proportion_to_its_length(unit: str) -> None:
    """Four times the text: quadratic would be 16 times the time."""
    _seconds(unit * 500)
    short = min(_seconds(unit * (8_000 // len(unit)) + str(n)) for n in range(2))
    long = min(_seconds(unit * (32_000 // len(unit)) + str(n)) for n in range(2))
    assert long < 10 * short + 0.05
