"""A question with all that its answer depends on: what may serve it, and what it may serve.

Everything beside the words — who asks, which index, which engine, which sampling — becomes the
partition; answers of two partitions never meet.
"""

import re
from collections import OrderedDict
from functools import lru_cache

import msgspec

from api.answering.context import AnswerContext
from api.answering.events import Event
from api.answering.request import AnswerRequest
from api.cache.admissible import Admission, admit_question
from api.cache.answer_cache import AnswerCache
from api.cache.entries import CacheKey
from api.cache.flights import Flights
from api.cache.partition import PartitionKey, history_key, partition_key
from api.engines.client import Sampling
from retrieval.index.filters import View
from retrieval.models.embedder import Embedder
from retrieval.types import Float32Array

RECENT = 10_000
_MAX_AGE = re.compile(r"max-age=(\d{1,9})")


class CacheControl(msgspec.Struct, frozen=True):
    """What a request's Cache-Control asks for."""

    may_read: bool = True
    may_store: bool = True
    max_age_s: float | None = None

    @classmethod
    def of(cls, cache_control: str) -> "CacheControl":
        if not cache_control:
            return READ_AND_STORE
        directives = cache_control.lower()
        found = _MAX_AGE.search(directives)
        return cls(
            may_read="no-cache" not in directives and "no-store" not in directives,
            may_store="no-store" not in directives,
            max_age_s=float(found.group(1)) if found else None,
        )


READ_AND_STORE = CacheControl()


class Served(msgspec.Struct, frozen=True):
    """Which entry answered a request, or would from now on."""

    entry_id: str
    """Empty for an answer that is not kept."""
    question: str
    tenant: str


class CachedAnswers(msgspec.Struct, frozen=True, kw_only=True):
    """The cache and what it needs to read a question."""

    cache: AnswerCache
    flights: Flights[Event]
    embedder: Embedder | None
    """None while it is loading: the exact layer works without."""
    shares_vector: bool
    """The embedder is retrieval's own: one encoding serves both."""
    ttl_s: float
    retrieval: tuple[tuple[str, object], ...]
    """Settings that change what is found; part of the partition."""
    recent: "OrderedDict[str, Served]"
    """By request id, for feedback; bounded."""

    def remember(self, request_id: str, served: Served) -> None:
        self.recent[request_id] = served
        while len(self.recent) > RECENT:
            self.recent.popitem(last=False)


class CacheRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request with all that its answer depends on."""

    ask: AnswerContext
    caching: CachedAnswers
    wish: CacheControl
    admission: Admission

    def asked(self, generation: str, embedding: Float32Array | None = None) -> CacheKey:
        ask, caching = self.ask, self.caching
        request, stages = ask.request, ask.stages
        engines = [stages.engines[ask.pinned]] if ask.pinned else stages.engines.all
        sampling = stages.sampling(request)
        partition = _partition(
            ask.admitted.caller.tenant,
            generation,
            " ".join([f"{engine.name}={engine.model}" for engine in engines]),
            sampling,
            stages.prompts.version,
            caching.retrieval,
            stages.n_passages(request),
            caching.embedder.revision if caching.embedder else "",
            ask.view,
        )
        history = history_key([(turn.role, turn.content) for turn in request.history])
        return CacheKey.of(partition, request.query, embedding, history=history)


@lru_cache(maxsize=4096)
def _partition(
    tenant: str,
    generation: str,
    engine_model: str,
    sampling: Sampling,
    prompt_version: str,
    retrieval: tuple[tuple[str, object], ...],
    top_k: int,
    embedding_model: str,
    view: View,
) -> str:
    """Return the key of all that an answer depends on beside its question."""
    return partition_key(
        PartitionKey(
            tenant=tenant,
            generation=generation,
            engine_model=engine_model,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            prompt_version=prompt_version,
            retrieval=dict(retrieval),
            top_k=top_k,
            embedding_model=embedding_model,
            filters={"view": view.key()},
        )
    )


@lru_cache(maxsize=4096)
def _admit_words(query: str) -> Admission:
    return admit_question(query)


def admit(request: AnswerRequest, embedder: Embedder | None) -> Admission:
    """Judge by its words what may be cached for a question."""
    if embedder is None or len(request.query) <= embedder.max_tokens:
        return _admit_words(request.query)  # no more tokens than characters
    n_tokens = len(embedder.tokenizer.encode(request.query).ids)
    return admit_question(request.query, n_tokens=n_tokens, window_tokens=embedder.max_tokens)
