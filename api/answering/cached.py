"""Answers from the cache, from an equal question that is being answered, or made anew and kept.

The same events in every case: who reads them sees the difference in `Done.cache` alone.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial

import msgspec

from api.answering.answer import UNVERIFIED, answer
from api.answering.cache_key import SettingValues, cache_key, judge_cacheable
from api.answering.context import AnswerContext
from api.answering.engine_call import LATE, ms_since
from api.answering.events import CacheFacts, Collected, Done, Event, Sources, Token
from api.cache.admissible import Admission, admit_answer
from api.cache.answer_cache import AnswerCache, Hit
from api.cache.entries import CacheKey, new_entry
from api.cache.flights import Flights
from api.citations.types import Citation
from api.errors import DeadlineExceeded
from api.telemetry.record import Record
from api.usage import NOTHING_USED
from retrieval.models.embedder import Embedder
from retrieval.types import Float32Array, QueueFull

RECENT = 10_000


class Served(msgspec.Struct, frozen=True):
    """Which entry answered a request, or would from now on."""

    entry_id: str
    """Empty for an answer that is not kept."""
    question: str
    tenant: str


class CachedAnswers:
    """The answer cache of one app, in front of `answer`."""

    def __init__(
        self,
        cache: AnswerCache,
        flights: Flights[Event],
        *,
        embedder: Callable[[], Embedder | None],
        retrieval: SettingValues,
        ttl_s: float,
    ) -> None:
        """`embedder` returns None while it is loading: the exact layer works without.

        `retrieval` are the settings that change what is found; part of the partition.
        """
        self._cache = cache
        self._flights = flights
        self._embedder = embedder
        self._retrieval = retrieval
        self._ttl_s = ttl_s
        self._served: OrderedDict[str, Served] = OrderedDict()
        """By request id, for feedback; bounded."""

    def served(self, request_id: str) -> Served | None:
        """Return what a request of late was answered with."""
        return self._served.get(request_id)

    async def open(self, context: AnswerContext) -> AsyncGenerator[Event]:
        """Look an answer up, and return its events. Raises DeadlineExceeded.

        What the events raise is what `answer` raises.
        """
        index = context.stages.retriever.index
        embedder = self._embedder()
        admission = judge_cacheable(context.request, embedder)
        if not (admission.exact and context.cache_control.may_read):
            return self._make(context, admission, None)
        key = self._key(context, index.generation)
        hit, embedding = await self._look_up(
            context, key, embedder, may_embed=admission.semantic and not key.history
        )
        # One written from a document that was deleted while Redis could not be told is no hit.
        if hit is not None and index.hidden.isdisjoint(hit.entry.doc_ids):
            self._remember(context, hit.entry.id)
            return _replay(hit, context.record)
        make = partial(self._make, context, admission, embedding)
        return self._share(context, key.embedded(embedding), make)

    def _key(self, context: AnswerContext, generation: str) -> CacheKey:
        embedder = self._embedder()
        return cache_key(
            context,
            generation=generation,
            retrieval=self._retrieval,
            embedding_model=embedder.revision if embedder else "",
        )

    async def _look_up(
        self, context: AnswerContext, key: CacheKey, embedder: Embedder | None, *, may_embed: bool
    ) -> tuple[Hit | None, Float32Array | None]:
        """Return a hit, and the question's vector where it was made. The stages are timed."""
        record, max_age_s = context.record, context.cache_control.max_age_s
        started = time.perf_counter()
        hit = await self._cache.lookup_exact(key, max_age_s=max_age_s)
        record.note("cache", ms_since(started))
        if hit is not None or embedder is None or not may_embed:
            return hit, None
        started = time.perf_counter()
        try:
            async with asyncio.timeout_at(context.deadline):
                embedding = await embedder.embed(context.request.query)
        except TimeoutError as exc:
            raise DeadlineExceeded(LATE) from exc
        except QueueFull:
            record.degraded.append("no_cache")
            return None, None
        record.note("embed", ms_since(started))
        started = time.perf_counter()
        hit = await self._cache.lookup_semantic(key.embedded(embedding), max_age_s=max_age_s)
        record.note("cache", record.stages_ms["cache"] + ms_since(started))
        return hit, embedding

    async def _make(
        self, context: AnswerContext, admission: Admission, embedding: Float32Array | None
    ) -> AsyncGenerator[Event]:
        """Make the answer, and keep it if it is whole and may be kept."""
        shared = embedding
        if embedding is not None and self._embedder() is not context.stages.retriever.embedder:
            shared = None  # a vector of another model than retrieval's
        collected = Collected()
        async with aclosing(answer(context, query_embedding=shared)) as events:
            async for event in events:
                collected.add(event)
                if isinstance(event, Done):
                    event = self._keep(context, admission, event, collected, embedding)
                yield event

    def _keep(
        self,
        context: AnswerContext,
        admission: Admission,
        done: Done,
        collected: Collected,
        embedding: Float32Array | None,
    ) -> Done:
        """Put a whole answer into the cache, under the generation that it was written from."""
        if not context.cache_control.may_store or UNVERIFIED in done.degraded:
            return done
        sources, text = collected.sources, collected.text
        admission = admit_answer(
            admission, text, finish_reason=done.finish_reason, is_grounded=bool(sources)
        )
        if not admission.exact:
            self._remember(context, "")
            return done
        key = self._key(context, done.index_generation)
        entry = new_entry(
            key.embedded(embedding if admission.semantic else None),
            answer=text,
            ttl_s=self._ttl_s,
            tenant=context.admitted.caller.tenant,
            generation=done.index_generation,
            payload={
                "sources": msgspec.to_builtins(sources),
                "citations": msgspec.to_builtins(collected.citations),
                "dropped_markers": done.dropped_markers,
                "top_k": context.stages.n_passages(context.request),
                "view": msgspec.to_builtins(context.view),
                "engine": done.engine,
                "model": done.model,
            },
            finish_reason=done.finish_reason,
            usage=msgspec.to_builtins(done.usage),
            doc_ids=tuple({source.doc_id for source in sources}),
            passage_ids=tuple(source.passage_id for source in sources),
        )
        self._cache.put(entry)
        self._remember(context, entry.id)
        return msgspec.structs.replace(done, cache=CacheFacts(entry_id=entry.id))

    def _remember(self, context: AnswerContext, entry_id: str) -> None:
        tenant = context.admitted.caller.tenant
        self._served[context.record.request_id] = Served(entry_id, context.request.query, tenant)
        while len(self._served) > RECENT:
            self._served.popitem(last=False)

    async def _share(
        self, context: AnswerContext, key: CacheKey, make: Callable[[], AsyncGenerator[Event]]
    ) -> AsyncGenerator[Event]:
        """Take part in a running answer to the same question, or lead one."""
        seat = self._flights.join(key, make, deadline=context.deadline)
        async with seat, aclosing(aiter(seat)) as events:  # type: ignore[type-var]
            async for event in events:
                if not seat.leads:
                    event = _followed(event, seat.similarity, context.record)
                yield event


async def _replay(hit: Hit, record: Record) -> AsyncGenerator[Event]:
    """Yield the events of a cached answer, which cost nothing."""
    entry, payload = hit.entry, hit.entry.payload
    record.cache = hit.kind
    record.generation, record.passage_ids = entry.generation, entry.passage_ids
    record.engine, record.model = payload["engine"], payload["model"]
    # Sources as they were encoded: they go out again as they are.
    yield Sources(payload["sources"])
    yield Token(entry.answer)
    for citation in msgspec.convert(payload["citations"], list[Citation]):
        yield citation
    yield Done(
        finish_reason=entry.finish_reason,
        usage=NOTHING_USED,
        latency_ms=record.end_stages(),
        degraded=list(record.degraded),
        request_id=record.request_id,
        engine=record.engine,
        model=record.model,
        index_generation=entry.generation,
        dropped_markers=payload["dropped_markers"],
        cache=CacheFacts(
            kind=hit.kind,
            similarity=round(hit.similarity, 4),
            age_s=round(hit.age_s, 1),
            entry_id=entry.id,
        ),
    )


def _followed(event: Event, similarity: float, record: Record) -> Event:
    """Return an event of an answer that another request paid for, as its follower gets it."""
    match event:
        case Sources(sources):
            record.passage_ids = [source.passage_id for source in sources]
        case Done():
            return _followed_done(event, similarity, record)
    return event


def _followed_done(done: Done, similarity: float, record: Record) -> Done:
    record.generation = done.index_generation
    record.cache, record.engine, record.model = "coalesced", done.engine, done.model
    record.shared_from = done.request_id
    return msgspec.structs.replace(
        done,
        usage=NOTHING_USED,
        cost_eur=0.0,
        latency_ms=record.end_stages(),
        request_id=record.request_id,
        cache=CacheFacts(
            kind="coalesced", similarity=round(similarity, 4), entry_id=done.cache.entry_id
        ),
    )
