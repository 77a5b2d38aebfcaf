"""An answer from the cache, from an equal question that is being answered, or made anew.

The same events in every case: who reads them sees the difference in `Done.cache` alone.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from api.answer import LATE, Stages, answer
from api.caching.answer_cache import Hit
from api.caching.entries import Asked, new_entry
from api.caching.normalise import admit_answer
from api.errors import DeadlineExceeded
from api.question import READ_AND_STORE, Caching, Question, Served, Wish, admit
from api.schemas import CacheFacts, Done, Event, QueryRequest, Source, Sources, Token, Usage
from api.telemetry import Record
from retrieval.types import Float32Array, QueueFull


async def reply(
    request: QueryRequest,
    stages: Stages,
    record: Record,
    *,
    caching: Caching,
    tenant: str,
    pinned: str | None = None,
    wish: Wish = READ_AND_STORE,
) -> AsyncGenerator[Event]:
    """Yield the events of an answer. Raises what `answer` raises."""
    question = Question(
        request=request,
        stages=stages,
        caching=caching,
        tenant=tenant,
        pinned=pinned,
        wish=wish,
        admission=admit(request, caching.embedder),
    )
    record.answers = True
    asked = question.asked(stages.retriever.index.generation)
    hit, embedding = None, None
    if question.admission.exact and wish.may_read:
        hit, embedding = await _look_up(question, asked, record)
    if hit is not None:
        caching.remember(record.request_id, Served(hit.entry.id, request.query))
        for event in _replay(hit, record):
            yield event
        return
    made = _made(question, record, embedding)
    async with aclosing(_shared(question, asked.embedded(embedding), made, record)) as events:
        async for event in events:
            yield event


async def _look_up(
    question: Question, asked: Asked, record: Record
) -> tuple[Hit | None, Float32Array | None]:
    """Return a hit, and the question's vector where it was made. The stages are timed."""
    caching, max_age_s = question.caching, question.wish.max_age_s
    started = time.perf_counter()
    hit = await caching.cache.lookup_exact(asked, max_age_s=max_age_s)
    record.stages_ms["cache"] = (time.perf_counter() - started) * 1000
    if hit is not None or caching.embedder is None or asked.history:
        return hit, None
    if not question.admission.semantic:
        return None, None
    started = time.perf_counter()
    left_s = question.stages.deadline_s - record.elapsed_ms() / 1000
    try:
        async with asyncio.timeout(left_s):
            embedding = await caching.embedder.embed(question.request.query)
    except TimeoutError as exc:
        raise DeadlineExceeded(LATE) from exc
    except QueueFull:
        record.degraded.append("no_cache")
        return None, None
    embedded = time.perf_counter()
    record.stages_ms["embed"] = (embedded - started) * 1000
    hit = await caching.cache.lookup_semantic(asked.embedded(embedding), max_age_s=max_age_s)
    record.stages_ms["cache"] += (time.perf_counter() - embedded) * 1000
    return hit, embedding


def _replay(hit: Hit, record: Record) -> list[Event]:
    """Return the events of a cached answer, which cost nothing."""
    entry = hit.entry
    record.cache = hit.kind
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
        cache=CacheFacts(
            kind=hit.kind,
            similarity=round(hit.similarity, 4),
            age_s=round(hit.age_s, 1),
            entry_id=entry.id,
        ),
    )
    # As they were encoded: they go out again as they are.
    return [Sources(entry.payload["sources"]), Token(entry.answer), done]


async def _made(
    question: Question, record: Record, embedding: Float32Array | None
) -> AsyncGenerator[Event]:
    """Make the answer, and keep it if it is whole and may be kept."""
    shared = embedding if question.caching.shares_vector else None
    sources: list[Source] = []
    tokens: list[str] = []
    making = answer(
        question.request, question.stages, record, pinned=question.pinned, query_embedding=shared
    )
    async with aclosing(making) as events:
        async for event in events:
            match event:
                case Sources(sources):
                    pass
                case Token(token):
                    tokens.append(token)
                case Done() if question.wish.may_store:
                    event = _keep(question, event, sources, "".join(tokens), embedding)
                    entry_id = event.cache.entry_id or ""
                    served = Served(entry_id, question.request.query)
                    question.caching.remember(record.request_id, served)
            yield event


def _keep(
    question: Question,
    done: Done,
    sources: list[Source],
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
        tenant=question.tenant,
        generation=done.index_generation,
        payload={
            "sources": msgspec.to_builtins(sources),
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
    question: Question, asked: Asked, made: AsyncGenerator[Event], record: Record
) -> AsyncGenerator[Event]:
    """Take part in a running answer to the same question, or lead one."""
    if not (question.admission.exact and question.wish.may_read):
        async with aclosing(made):
            async for event in made:
                yield event
        return
    stages = question.stages
    left_s = stages.deadline_s - record.elapsed_ms() / 1000
    deadline = asyncio.get_running_loop().time() + left_s
    seat = question.caching.flights.join(asked, lambda: made, deadline=deadline)
    async with seat, aclosing(aiter(seat)) as events:  # type: ignore[type-var]
        async for event in events:
            if isinstance(event, Done) and not seat.leads:
                event = _followed(event, seat.similarity, record)
            yield event


def _followed(done: Done, similarity: float, record: Record) -> Done:
    """The end of an answer that another request paid for."""
    record.cache, record.engine, record.model = "coalesced", done.engine, done.model
    record.stages_ms["total"] = record.elapsed_ms()
    return msgspec.structs.replace(
        done,
        usage=Usage(prompt_tokens=0, completion_tokens=0),
        latency_ms={stage: round(ms, 2) for stage, ms in record.stages_ms.items()},
        request_id=record.request_id,
        cache=CacheFacts(
            kind="coalesced", similarity=round(similarity, 4), entry_id=done.cache.entry_id
        ),
    )
