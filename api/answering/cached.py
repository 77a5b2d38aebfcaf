"""An answer from the cache, from an equal question that is being answered, or made anew.

The same events in every case: who reads them sees the difference in `Done.cache` alone.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from api.answering.answer import UNVERIFIED, answer
from api.answering.cache_request import (
    READ_AND_STORE,
    CacheControl,
    CachedAnswers,
    CacheRequest,
    Served,
    admit,
)
from api.answering.context import AnswerContext
from api.answering.engine_call import LATE
from api.answering.events import CacheFacts, Done, Event, Source, Sources, Token
from api.cache.admissible import admit_answer
from api.cache.answer_cache import Hit
from api.cache.entries import CacheKey, new_entry
from api.citations.types import Citation
from api.errors import DeadlineExceeded
from api.telemetry.record import Record
from api.usage import Usage
from retrieval.types import Float32Array, QueueFull


async def reply(
    ask: AnswerContext, *, caching: CachedAnswers, wish: CacheControl = READ_AND_STORE
) -> AsyncGenerator[Event]:
    """Yield the events of an answer. Raises what `answer` raises."""
    request, record = ask.request, ask.record
    question = CacheRequest(
        ask=ask, caching=caching, wish=wish, admission=admit(request, caching.embedder)
    )
    record.answers = True
    index = ask.stages.retriever.index
    asked = question.asked(index.generation)
    hit, embedding = None, None
    if question.admission.exact and wish.may_read:
        hit, embedding = await _look_up(question, asked)
    if hit is not None and not index.hidden.isdisjoint(hit.entry.doc_ids):
        hit = None  # written from what was deleted while the cache's store could not be told
    if hit is not None:
        caching.remember(
            record.request_id, Served(hit.entry.id, request.query, ask.admitted.caller.tenant)
        )
        for event in _replay(hit, record):
            yield event
        return
    made = _made(question, embedding)
    async with aclosing(_shared(question, asked.embedded(embedding), made)) as events:
        async for event in events:
            yield event


async def _look_up(
    question: CacheRequest, asked: CacheKey
) -> tuple[Hit | None, Float32Array | None]:
    """Return a hit, and the question's vector where it was made. The stages are timed."""
    ask, caching, max_age_s = question.ask, question.caching, question.wish.max_age_s
    record = ask.record
    started = time.perf_counter()
    hit = await caching.cache.lookup_exact(asked, max_age_s=max_age_s)
    record.note("cache", (time.perf_counter() - started) * 1000)
    if hit is not None or caching.embedder is None or asked.history:
        return hit, None
    if not question.admission.semantic:
        return None, None
    started = time.perf_counter()
    try:
        async with asyncio.timeout_at(ask.deadline):
            embedding = await caching.embedder.embed(ask.request.query)
    except TimeoutError as exc:
        raise DeadlineExceeded(LATE) from exc
    except QueueFull:
        record.degraded.append("no_cache")
        return None, None
    embedded = time.perf_counter()
    record.note("embed", (embedded - started) * 1000)
    hit = await caching.cache.lookup_semantic(asked.embedded(embedding), max_age_s=max_age_s)
    semantic_ms = (time.perf_counter() - embedded) * 1000
    record.note("cache", record.stages_ms["cache"] + semantic_ms)
    return hit, embedding


def _replay(hit: Hit, record: Record) -> list[Event]:
    """Return the events of a cached answer, which cost nothing."""
    entry = hit.entry
    record.cache = hit.kind
    record.generation, record.passage_ids = entry.generation, entry.passage_ids
    record.engine, record.model = entry.payload["engine"], entry.payload["model"]
    record.stages_ms["total"] = record.elapsed_ms()
    done = Done(
        finish_reason=entry.finish_reason,
        usage=Usage(prompt_tokens=0, completion_tokens=0),
        latency_ms={stage: round(ms, 2) for stage, ms in record.stages_ms.items()},
        degraded=record.degraded,
        request_id=record.request_id,
        engine=record.engine,
        model=record.model,
        index_generation=entry.generation,
        dropped_markers=entry.payload["dropped_markers"],
        cache=CacheFacts(
            kind=hit.kind,
            similarity=round(hit.similarity, 4),
            age_s=round(hit.age_s, 1),
            entry_id=entry.id,
        ),
    )
    citations = msgspec.convert(entry.payload["citations"], list[Citation])
    # Sources as they were encoded: they go out again as they are.
    return [Sources(entry.payload["sources"]), Token(entry.answer), *citations, done]


async def _made(question: CacheRequest, embedding: Float32Array | None) -> AsyncGenerator[Event]:
    """Make the answer, and keep it if it is whole and may be kept."""
    shared = embedding if question.caching.shares_vector else None
    sources: list[Source] = []
    tokens: list[str] = []
    citations: list[Citation] = []
    making = answer(question.ask, query_embedding=shared)
    async with aclosing(making) as events:
        async for event in events:
            match event:
                case Sources(sources):
                    pass
                case Token(token):
                    tokens.append(token)
                case Citation():
                    citations.append(event)
                case Done() if question.wish.may_store and UNVERIFIED not in event.degraded:
                    event = _keep(question, event, sources, citations, "".join(tokens), embedding)
                    entry_id = event.cache.entry_id or ""
                    ask = question.ask
                    served = Served(entry_id, ask.request.query, ask.admitted.caller.tenant)
                    question.caching.remember(ask.record.request_id, served)
            yield event


def _keep(
    question: CacheRequest,
    done: Done,
    sources: list[Source],
    citations: list[Citation],
    text: str,
    embedding: Float32Array | None,
) -> Done:
    """Put a whole answer into the cache, under the generation that it was written from."""
    admission = admit_answer(
        question.admission, text, finish_reason=done.finish_reason, is_grounded=bool(sources)
    )
    if not admission.exact:
        return done
    asked = question.asked(done.index_generation, embedding if admission.semantic else None)
    entry = new_entry(
        asked,
        answer=text,
        ttl_s=question.caching.ttl_s,
        tenant=question.ask.admitted.caller.tenant,
        generation=done.index_generation,
        payload={
            "sources": msgspec.to_builtins(sources),
            "citations": msgspec.to_builtins(citations),
            "dropped_markers": done.dropped_markers,
            "top_k": question.ask.stages.n_passages(question.ask.request),
            "view": msgspec.to_builtins(question.ask.view),
            "engine": done.engine,
            "model": done.model,
        },
        finish_reason=done.finish_reason,
        usage=msgspec.to_builtins(done.usage),
        doc_ids=tuple({source.doc_id for source in sources}),
        passage_ids=tuple(source.passage_id for source in sources),
    )
    question.caching.cache.put(entry)
    return msgspec.structs.replace(done, cache=CacheFacts(entry_id=entry.id))


async def _shared(
    question: CacheRequest, asked: CacheKey, made: AsyncGenerator[Event]
) -> AsyncGenerator[Event]:
    """Take part in a running answer to the same question, or lead one."""
    if not (question.admission.exact and question.wish.may_read):
        async with aclosing(made):
            async for event in made:
                yield event
        return
    ask = question.ask
    seat = question.caching.flights.join(asked, lambda: made, deadline=ask.deadline)
    async with seat, aclosing(aiter(seat)) as events:  # type: ignore[type-var]
        async for event in events:
            if not seat.leads:
                event = _followed(event, seat.similarity, ask.record)
            yield event


def _followed(event: Event, similarity: float, record: Record) -> Event:
    """An event of an answer that another request paid for."""
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
    record.stages_ms["total"] = record.elapsed_ms()
    return msgspec.structs.replace(
        done,
        usage=Usage(prompt_tokens=0, completion_tokens=0),
        cost_eur=0.0,
        latency_ms={stage: round(ms, 2) for stage, ms in record.stages_ms.items()},
        request_id=record.request_id,
        cache=CacheFacts(
            kind="coalesced", similarity=round(similarity, 4), entry_id=done.cache.entry_id
        ),
    )
