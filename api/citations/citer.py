"""Cite an answer as it streams: for each sentence, the spans of the sources that support it.

A marker is a claim like any other: it counts where its passage supports the sentence, and a
passage that supports it counts without one.
"""

from collections import Counter
from collections.abc import Sequence

from api.citations.markers import MARKER, numbers_of
from api.citations.sentences import Sentences
from api.citations.support import Evidence, Found, read_passage
from api.citations.types import Citation, CitedSpan, Kind, Quotable
from api.citations.words import Words, read_sentence
from retrieval.language.data import load_words
from retrieval.language.vocabulary import stem

MAX_SPANS = 3

_ABOUT_SOURCES = frozenset(map(stem, load_words("about_sources")))
"""Stems of words that speak of the sources, not of what they say."""


class Citer:
    """Of one answer. `dropped_markers` counts those that name no source, `kinds` its citations."""

    def __init__(self, question: str, sources: Sequence[Quotable]) -> None:
        self.dropped_markers = 0
        self.kinds: Counter[Kind] = Counter()
        self._question = question
        self._sources = sources
        self._numbers = {source.n for source in sources}
        self._sentences = Sentences()
        self._evidence: Evidence | None = None
        self._unread = [source.text for source in sources]

    def feed(self, piece: str) -> list[Citation]:
        """Return the citations of the sentences that this piece shows to have ended."""
        if ended := self._sentences.feed(piece):
            return self._cite(ended)
        if self._unread:  # 20 passages at once, with the first sentence, would hold all others up
            read_passage(self._unread.pop())
        return []

    def finish(self) -> list[Citation]:
        """Return those of what is left, once the answer has ended."""
        return self._cite(self._sentences.finish())

    def _cite(self, sentences: list[tuple[int, str]]) -> list[Citation]:
        cited = [self._citation(start, sentence) for start, sentence in sentences]
        return [citation for citation in cited if citation is not None]

    def _citation(self, start: int, sentence: str) -> Citation | None:
        """None for a sentence without a word: a rule, a fence, markers alone."""
        named: list[int] = []
        for marker in MARKER.finditer(sentence):
            named += numbers_of(marker)
        known = self._numbers.intersection(named)
        self.dropped_markers += len([n for n in named if n not in known])
        claim = MARKER.sub(" ", sentence) if named else sentence
        if not any(map(str.isalnum, claim)):
            return None
        kind, found = self._judge(claim, known)
        self.kinds[kind] += 1
        return Citation(
            start=start,
            end=start + len(sentence),
            kind=kind,
            score=round(found[0].score, 3) if found else 0.0,
            sources=[_span(window) for window in found[:MAX_SPANS]],
        )

    def _judge(self, claim: str, named: set[int]) -> tuple[Kind, list[Found]]:
        said = read_sentence(claim)
        words = _about_the_world(said)
        says_it_lacks = not said.negated.isdisjoint(_ABOUT_SOURCES)
        if says_it_lacks or not words.terms or not self._sources:
            return "unsupported", []
        if self._evidence is None:
            self._evidence = Evidence(self._question, self._sources)
        found = self._evidence.support(words)
        marked = [window for window in found if window.source.n in named]
        if marked:
            return "cited", marked
        return ("inferred", found) if found else ("unsupported", [])


def _about_the_world(words: Words) -> Words:
    terms = tuple(term for term in words.terms if term not in _ABOUT_SOURCES)
    if not terms or len(terms) == len(words.terms):
        return words
    return Words(terms, words.numbers, words.names - _ABOUT_SOURCES, words.negated)


def _span(window: Found) -> CitedSpan:
    source = window.source
    return CitedSpan(
        n=source.n,
        doc_id=source.doc_id,
        passage_id=source.passage_id,
        start=source.start + window.start,
        end=source.start + window.end,
    )
