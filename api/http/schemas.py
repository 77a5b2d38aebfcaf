"""Wire structs of questions, answers, searches and feedback, with the bounds of each field."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from api.answering.events import AnswerFacts, ScoresOut, Source
from api.answering.request import AnswerRequest, Message
from api.citations.types import Citation
from retrieval.index.filters import parse_filters
from retrieval.language.characters import require_text


def check_filters(raw: dict[str, Any] | None) -> None:
    """Raise ValueError for filters that name no fields, or more than they may."""
    if raw is not None:
        parse_filters(raw)


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


class QueryRequest(AnswerRequest, frozen=True, kw_only=True):
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
        require_text(self.query, at_least=3)
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
        require_text(self.query, at_least=3)
        check_filters(self.filters)


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
