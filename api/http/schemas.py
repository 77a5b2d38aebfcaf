"""Wire structs: what comes in, what goes out, and the events of one answer.

An answer is the event sequence Sources, Token…, Citation…, Done; the citation of a sentence comes
once it has ended, so tokens and citations alternate. `/query` returns it collected,
`/query/stream` returns it as server-sent events; nothing else knows how to answer.
"""

import re
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from api.citations.types import Citation
from retrieval.index.filters import parse_filters

# Everything below space but tab and newlines, DEL and the C1 block: no question needs them,
# and terminals, logs and tokenizers treat them specially.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def _checked(text: str, *, at_least: int = 1) -> None:
    """Raise ValueError for text that is blank or holds control characters."""
    if len(text.strip()) < at_least:
        raise ValueError(f"Expected `str` of at least {at_least} characters that are not blank")
    if _CONTROL.search(text):
        raise ValueError("Expected `str` without control characters")


def check_filters(raw: dict[str, Any] | None) -> None:
    """Raise ValueError for filters that name no fields, or more than they may."""
    if raw is not None:
        parse_filters(raw)


def without_controls(text: str) -> str:
    """Return the text with a space for each character that `_checked` would refuse."""
    return _CONTROL.sub(" ", text)


NO_NUL = r"^[^\x00]*$"
"""PostgreSQL takes any text but that."""
TopK = Annotated[int, Meta(ge=1, le=20, description="Passages to answer from; 3 when unset")]
Filters = Annotated[
    dict[str, Any] | None,
    Meta(
        description="Conditions on the documents' metadata: a value, or in, ne, gte, gt, lte, lt; "
        "joined by `and` and `or`",
        examples=[{"year": {"gte": 2024}, "lang": "en"}],
    ),
]


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of request bodies: unknown fields are refused, not ignored."""


class Message(Request, frozen=True, kw_only=True):
    role: Literal["user", "assistant"]
    content: Annotated[str, Meta(min_length=1, max_length=8000)]

    def __post_init__(self) -> None:
        _checked(self.content)


class Inquiry(Request, frozen=True, kw_only=True):
    """What is asked. How long it may be, and how much it may want, each route bounds for itself."""

    query: str
    top_k: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    history: list[Message] = []
    """Earlier turns, oldest first."""
    filters: dict[str, Any] | None = None
    """Which documents may be answered from, by their metadata (`retrieval.index.filters`)."""


class QueryRequest(Inquiry, frozen=True, kw_only=True):
    query: Annotated[
        str,
        Meta(
            min_length=3,
            max_length=512,
            description="The question",
            examples=["How do I swap the engine for vLLM?"],
        ),
    ]
    top_k: TopK | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1024)] | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    history: Annotated[list[Message], Meta(max_length=20)] = []
    filters: Filters = None

    def __post_init__(self) -> None:
        _checked(self.query, at_least=3)
        check_filters(self.filters)


class StreamRequest(QueryRequest, frozen=True, kw_only=True):
    resume: bool = False
    """The answer goes on for a while when its stream breaks, to be taken up again."""


class SearchRequest(Request, frozen=True, kw_only=True):
    query: Annotated[
        str, Meta(min_length=3, max_length=512, examples=["server-sent events heartbeat"])
    ]
    top_k: Annotated[int, Meta(ge=1, le=100)] = 10
    filters: Filters = None

    def __post_init__(self) -> None:
        _checked(self.query, at_least=3)
        check_filters(self.filters)


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


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False
    """True when the engine reported none and we counted ourselves."""


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

Status = Literal["ok", "loading", "unavailable", "draining"]


class QueryResponse(AnswerFacts, frozen=True, kw_only=True):
    answer: str
    sources: list[Source]
    citations: list[Citation] = []
    """One for each sentence of the answer, in order."""


class FeedbackRequest(Request, frozen=True, kw_only=True):
    request_id: Annotated[str, Meta(min_length=1, max_length=64, pattern=NO_NUL)]
    entry_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    rating: Literal["up", "down"]
    """down: the answer is dropped from the cache and kept from this question for good."""
    reason: Annotated[str, Meta(max_length=2000)] | None = None
    correct_answer: Annotated[str, Meta(max_length=8000)] | None = None


class SearchHit(msgspec.Struct, frozen=True, kw_only=True):
    rank: int
    scores: ScoresOut
    doc_id: str
    passage_id: str
    title: str
    text: str
    start: int
    end: int
    metadata: dict[str, object]


class SearchResponse(msgspec.Struct, frozen=True, kw_only=True):
    hits: list[SearchHit]
    latency_ms: dict[str, float]
    request_id: str
    index_generation: str


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """State of one part; `ms` is how long asking it took."""

    status: Literal["ok", "down", "off"]
    ms: float | None = None
    detail: str | None = None


class BudgetScope(msgspec.Struct, frozen=True, kw_only=True):
    """One budget in its current window."""

    scope: str
    window: str
    limit_eur: float
    spent_eur: float
    reserved_eur: float
    """Held for answers under way: their worst case, freed when they end."""
    remaining_eur: float
    state: Literal["closed", "open"]
    reset_s: float


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """`open`: no engine is asked until the window ends; cached answers and search still serve."""

    state: Literal["closed", "open"]
    counted: Literal["shared", "here"]
    """here: the ledger is down, and this process counts for itself."""
    scopes: list[BudgetScope]


class Health(msgspec.Struct, frozen=True):
    status: Status
    checks: dict[str, Check]
