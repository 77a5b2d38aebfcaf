"""The events of one answer: Sources, Token…, Citation…, Done.

The citation of a sentence comes once it has ended, so tokens and citations alternate. `/query`
returns them collected, `/query/stream` as server-sent events; nothing else knows how to answer.
"""

from typing import ClassVar, Literal

import msgspec

from api.citations.types import Citation
from api.usage import Usage


class ScoresOut(msgspec.Struct, frozen=True):
    """dense: cosine; sparse: BM25; fused: what ranks. null where a stage did not score."""

    dense: float | None
    sparse: float | None
    fused: float
    rerank: float | None = None


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A passage the answer was written from; `n` is its number in the prompt, from 1."""

    n: int
    doc_id: str
    passage_id: str
    title: str
    text: str
    start: int
    end: int
    """Character offsets of `text` in its document."""
    scores: ScoresOut


class Sources(msgspec.Struct, frozen=True):
    event: ClassVar[bytes] = b"sources"
    sources: list[Source]


class Token(msgspec.Struct, frozen=True):
    event: ClassVar[bytes] = b"token"
    token: str


class CacheFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Where the answer came from; `coalesced`: from an equal question asked at the same time."""

    kind: Literal["none", "exact", "semantic", "coalesced"] = "none"
    similarity: float | None = None
    age_s: float | None = None
    entry_id: str | None = None
    """Of the cached answer, for DELETE /cache and POST /feedback; null if it is not kept."""


class AnswerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known once the answer is whole; the same in `/query` and in `done`."""

    finish_reason: str
    """stop, length, or no_passages (nothing matched, the engine was not asked)."""
    usage: Usage
    cost_eur: float = 0.0
    """By the prices set; 0 for an answer from the cache or shared with an equal question."""
    latency_ms: dict[str, float]
    degraded: list[str]
    request_id: str
    engine: str
    model: str
    index_generation: str
    cache: CacheFacts = CacheFacts()
    dropped_markers: int = 0
    """Markers in the answer that name none of its sources."""
    standalone_query: str | msgspec.UnsetType = msgspec.UNSET
    """What was searched and asked in place of a follow-up that only its history explains."""
    experiment: str | msgspec.UnsetType = msgspec.UNSET
    """The experiment that runs, where the request took part in it."""
    variant: str | msgspec.UnsetType = msgspec.UNSET


class Done(AnswerFacts, frozen=True, kw_only=True):
    event: ClassVar[bytes] = b"done"


Event = Sources | Token | Citation | Done


class Collected:
    """Sources, text and citations of an answer, gathered from its events."""

    def __init__(self) -> None:
        self.sources: list[Source] = []
        self.citations: list[Citation] = []
        self._tokens: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._tokens)

    def add(self, event: Event) -> None:
        match event:
            case Token(token):
                self._tokens.append(token)
            case Citation():
                self.citations.append(event)
            case Sources(sources):
                self.sources = sources
