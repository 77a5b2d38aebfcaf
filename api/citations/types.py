"""What a citation is: one sentence of an answer, and the spans of documents that support it."""

from typing import ClassVar, Literal, Protocol

import msgspec

Kind = Literal["cited", "inferred", "unsupported"]


class Quotable(Protocol):
    """A passage that an answer was written from."""

    @property
    def n(self) -> int: ...
    @property
    def doc_id(self) -> str: ...
    @property
    def passage_id(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def start(self) -> int: ...


class CitedSpan(msgspec.Struct, frozen=True, kw_only=True):
    """The fewest sentences of a source that support the answer's; `n` is the source's number."""

    n: int
    doc_id: str
    passage_id: str
    start: int
    end: int
    """Characters of the document."""


class Citation(msgspec.Struct, frozen=True, kw_only=True):
    """One sentence of the answer and what supports it."""

    event: ClassVar[bytes] = b"citation"
    start: int
    end: int
    """Characters of the answer; its markers are part of a sentence."""
    kind: Kind
    """cited: a marker named a source that supports it; inferred: found without a marker;
    unsupported: no source does, whatever a marker says."""
    score: float
    """Share of the sentence, by weight, that its best source has: 0 to 1."""
    sources: list[CitedSpan]
    """Best first, at most three; none where unsupported."""
