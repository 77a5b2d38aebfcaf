"""Turn a ranking into sources for a prompt: join neighbouring passages, leave out repeats.

Search results and evaluation keep the ranking as it is. Pure functions over hits.
"""

import re
from collections.abc import Sequence
from os.path import commonprefix

import msgspec

from retrieval.language.vocabulary import NEGATIONS
from retrieval.types import Hit, Passage

MERGED_CHARS = 3_000
"""Longest text of a merged passage, some 600 tokens: longer ones would crowd out the rest of a
prompt, which is cut by whole sources."""

SAME = 0.9
"""Share of word triples in common from which two texts say the same, if numbers and negations
agree too: "revenue in 2019" and "revenue in 2020" differ by one word, and in everything."""

_NEGATIONS = NEGATIONS | {"t"}
"""`t` is what is left of "don't"."""

_words = re.compile(r"\w+").findall
_SECTION = " > "


def distinct(hits: Sequence[Hit], k: int) -> list[Hit]:
    """The best k sources of a ranking, ranks anew from 1.

    A passage that touches a better one is merged into it, under the better one's scores and id;
    one that repeats a better one is left out.
    """
    sources: list[Hit] = []
    seen: list[_Fingerprint] = []
    for hit in hits:
        if len(sources) == k:
            break
        fingerprint = _Fingerprint(hit.passage)
        if not any(fingerprint.repeats(other) for other in seen):
            seen.append(fingerprint)
            _add(sources, hit)
    return [msgspec.structs.replace(hit, rank=rank) for rank, hit in enumerate(sources, 1)]


def _add(sources: list[Hit], hit: Hit) -> None:
    """Append the hit, or put it in the place of the best source that it touches.

    What it becomes may touch others in turn: the middle one of three joins all.
    """
    place = len(sources)
    while (touched := _first_touched(sources, hit.passage)) is not None:
        other = sources.pop(touched)
        better, worse = (other, hit) if touched < place else (hit, other)
        place = min(place, touched)
        hit = msgspec.structs.replace(better, passage=merge(better.passage, worse.passage))
    sources.insert(place, hit)


def _first_touched(sources: list[Hit], passage: Passage) -> int | None:
    touching = (n for n, source in enumerate(sources) if merge(source.passage, passage) is not None)
    return next(touching, None)


def merge(better: Passage, other: Passage) -> Passage | None:
    """Both as one cut of their document; None unless they overlap or only white space is between.

    None as well where the text in between is not known, or the two would be too long.
    """
    if better.doc_id != other.doc_id:
        return None
    first, second = sorted((better, other), key=lambda passage: (passage.start, passage.end))
    text = _joined(first, second)
    if text is None or len(text) > MERGED_CHARS:
        return None
    return msgspec.structs.replace(
        better,
        title=_common_title(better.title, other.title),
        text=text,
        start=first.start,
        end=max(first.end, second.end),
        gap=first.gap,
    )


def _joined(first: Passage, second: Passage) -> str | None:
    if not (_is_cut(first) and _is_cut(second)):
        return None
    shared = first.end - second.start
    if shared < 0:
        is_next = second.gap is not None and len(second.gap) == -shared
        return f"{first.text}{second.gap}{second.text}" if is_next else None
    within = first.text[len(first.text) - shared :][: len(second.text)]
    if within != second.text[:shared]:
        return None
    return first.text + second.text[shared:]


def _is_cut(passage: Passage) -> bool:
    """Whether start and end are those of the text as it stands in the document."""
    return len(passage.text) == passage.end - passage.start


def _common_title(better: str, other: str) -> str:
    """ "Doc > A" and "Doc > B" are both in "Doc"."""
    shared = commonprefix([better.split(_SECTION), other.split(_SECTION)])
    return _SECTION.join(shared) or better


class _Fingerprint:
    """The word triples of a passage, and the words by which two near-equal texts differ in fact."""

    def __init__(self, passage: Passage) -> None:
        words = _words(passage.indexed_text.lower())
        self._triples = set(zip(words, words[1:], words[2:], strict=False)) or {tuple(words)}
        self._decisive = {word for word in words if word in _NEGATIONS or not word.isalpha()}

    def repeats(self, other: "_Fingerprint") -> bool:
        if self._decisive != other._decisive:
            return False
        shared = len(self._triples & other._triples)
        return shared >= SAME * len(self._triples | other._triples)
