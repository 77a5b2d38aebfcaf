"""Find the sentences of the sources that support a sentence of the answer, by its words.

Words that few sentences have count more, names and numbers more still, and what the question said
already counts less. A window that lacks a number or name, negates what the answer affirms, or has
the opposite of a word it lacks does not support it. Word order is not compared: "A beat B" and
"B beat A" look the same here.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from math import log
from operator import itemgetter
from typing import NamedTuple

import msgspec

from api.citations.sentences import Span, split
from api.citations.types import Quotable
from api.citations.words import Words, read_sentence
from retrieval.language.opposites import sides

ENOUGH = 0.5
"""Share of the sentence, and of sentence and question together, that a window must have.
Set on one half of SQuAD's articles; bench/citing.py shows others."""
PRIOR = 10.0
"""Sentences that a word is thought to be missing from, beside those that are here."""
NAME_WEIGHT = 1.5
ASKED_WEIGHT = 0.5
"""Of a word that the question has: repeating it claims little."""
NEARBY_WEIGHT = 0.5
"""Of a word that the title or another sentence of the passage has: pronouns stand for it."""
PAIR_GAIN = 0.2
"""What two sentences must have beyond the better one to be named instead of it."""
IN_PLACE = 0.5
"""Share of the question's words, of the most that any sentence has, that must stand where the
claim stands: a paragraph holds the answers to other questions too."""
BRIEF = 4
"""A claim of fewer words is understood from its question."""
MAX_QUESTION = 512
"""Characters of it, the last ones: a chat message may have 8,000, and ends in what it wants."""
MAX_SENTENCES = 64
"""Of one passage; a passage of 200 tokens has six to ten."""

Idf = Callable[[str], float]


class Reading(msgspec.Struct, frozen=True):
    """The sentences of a passage, and all its words."""

    spans: tuple[Span, ...]
    sentences: tuple[Words, ...]
    terms: tuple[frozenset[str], ...]
    all_terms: frozenset[str]


class Found(NamedTuple):
    """A window of a passage, in characters of the passage."""

    score: float
    source: Quotable
    start: int
    end: int


@lru_cache(maxsize=1024)
def read_passage(text: str) -> Reading:
    """Kept, because few passages answer most questions; 10 KB each."""
    spans = tuple(split(text)[:MAX_SENTENCES])
    sentences = tuple(read_sentence(text[start:end]) for start, end in spans)
    terms = tuple(frozenset(words.terms) for words in sentences)
    return Reading(spans, sentences, terms, frozenset().union(*terms))


@lru_cache(maxsize=1024)
def _read_title(title: str) -> frozenset[str]:
    return frozenset(read_sentence(title.replace("_", " ")).terms)


class Evidence:
    """The passages of one answer, and its question."""

    def __init__(self, question: str, sources: Sequence[Quotable]) -> None:
        self._asked = frozenset(read_sentence(question[-MAX_QUESTION:]).terms)
        self._sources = sources
        self._readings = [read_passage(source.text) for source in sources]
        self._n_sentences = sum(len(reading.spans) for reading in self._readings)
        self._df: Counter[str] = Counter()
        for reading in self._readings:
            for terms in reading.terms:
                self._df.update(terms)
        self._nearby = [
            reading.all_terms | _read_title(source.title)
            for source, reading in zip(sources, self._readings, strict=True)
        ]

    def support(self, words: Words) -> list[Found]:
        """Return the best window of each passage that supports a sentence, best first."""
        claim = _Claim(words, self._asked, self._idf)
        claim.look_for_place(terms for reading in self._readings for terms in reading.terms)
        found = [
            window
            for source, reading, nearby in zip(
                self._sources, self._readings, self._nearby, strict=True
            )
            if (window := claim.best_window(source, reading, nearby)) is not None
        ]
        return sorted(found, key=lambda window: -window.score)

    def _idf(self, term: str) -> float:
        return log((self._n_sentences + PRIOR) / (self._df[term] + 1))


class _Claim:
    """What one sentence says, weighed."""

    def __init__(self, words: Words, asked: frozenset[str], idf: Idf) -> None:
        self._words = words
        self._terms = frozenset(words.terms)
        self._weights = {
            term: idf(term)
            * (NAME_WEIGHT if term in words.names or term in words.numbers else 1.0)
            * (ASKED_WEIGHT if term in asked else 1.0)
            for term in words.terms
        }
        self._asked_weights = {term: ASKED_WEIGHT * idf(term) for term in asked - self._terms}
        self._total = sum(self._weights.values()) or 1.0
        self._asked_total = sum(self._asked_weights.values())
        new = self._terms - asked
        self._new_numbers = words.numbers & new
        is_title = 2 * len(words.names) > len(words.terms)
        self._new_names = frozenset() if is_title else words.names & new
        self._new = new or self._terms
        place = asked if len(self._terms) < BRIEF else asked & self._terms
        self._place = {term: idf(term) for term in place}
        self._least_in_place = 0.0

    def look_for_place(self, sentences: Iterable[frozenset[str]]) -> None:
        """Learn from all sentences how much of the question one can have."""
        self._least_in_place = IN_PLACE * max(map(self._in_place, sentences), default=0.0)

    def _in_place(self, terms: frozenset[str]) -> float:
        return sum(self._place[term] for term in self._place.keys() & terms)

    def best_window(
        self, source: Quotable, reading: Reading, nearby: frozenset[str]
    ) -> Found | None:
        """Return the smallest window of a passage that supports the claim."""
        if not self._new_names <= nearby:
            return None
        near = self._share(nearby), self._asked_share(nearby)
        alone = [
            (self._judge(terms, near), n, n + 1)
            for n, terms in enumerate(reading.terms)
            if not self._terms.isdisjoint(terms)
        ]
        if not alone:
            return None
        best = max(alone, key=itemgetter(0))
        for first in (best[1] - 1, best[1]):
            if 0 <= first < len(reading.spans) - 1:
                pair = self._judge(reading.terms[first] | reading.terms[first + 1], near)
                if pair >= best[0] + (PAIR_GAIN if best[2] - best[1] == 1 and best[0] else 0.01):
                    best = (pair, first, first + 2)
        score, first, end = best
        if not score or self._is_denied(reading, first, end):
            return None
        return Found(score, source, reading.spans[first][0], reading.spans[end - 1][1])

    def _judge(self, terms: frozenset[str], near: tuple[float, float]) -> float:
        """Return how much of the claim a window of these words has, 0.0 if it is not enough.

        `near` is what the passage has of claim and question.
        """
        if not self._new_numbers <= terms or self._new.isdisjoint(terms):
            return 0.0
        if self._in_place(terms) < self._least_in_place:
            return 0.0
        share = NEARBY_WEIGHT * near[0] + (1 - NEARBY_WEIGHT) * self._share(terms)
        asked = NEARBY_WEIGHT * near[1] + (1 - NEARBY_WEIGHT) * self._asked_share(terms)
        both = (share * self._total + asked * self._asked_total) / (self._total + self._asked_total)
        return both if min(share, both) >= ENOUGH else 0.0

    def _share(self, terms: frozenset[str]) -> float:
        return sum(self._weights[term] for term in self._terms & terms) / self._total

    def _asked_share(self, terms: frozenset[str]) -> float:
        weights = self._asked_weights
        held = sum(weights[term] for term in weights.keys() & terms)
        return held / self._asked_total if held else 0.0

    def _is_denied(self, reading: Reading, first: int, end: int) -> bool:
        """Whether one of window and claim negates what the other affirms, or has its opposite."""
        terms = frozenset().union(*reading.terms[first:end])
        negated = frozenset().union(*(words.negated for words in reading.sentences[first:end]))
        claimed = self._words.negated
        if not claimed <= negated or not (negated - claimed).isdisjoint(self._terms):
            return True
        return any(_has_opposite(term, terms - self._terms) for term in self._terms - terms)


def _has_opposite(term: str, terms: frozenset[str]) -> bool:
    groups = dict(sides().get(term, ()))
    return bool(groups) and any(
        group in groups and groups[group] != side
        for other in terms
        for group, side in sides().get(other, ())
    )
