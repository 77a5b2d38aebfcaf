"""The way of a question, top to bottom: embed, retrieve, prompt, engine, relay.

One generator of events serves every route. It knows no HTTP and times each stage.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from prometheus_client import Histogram

from api.engines import Chosen, Engines
from api.errors import DeadlineExceeded, EngineOverloaded, PromptTooLong, RagError
from api.generation import Finish, Sampling
from api.prompt import NO_PASSAGES, PromptBuilder, estimate_tokens
from api.schemas import (
    Done,
    Event,
    QueryRequest,
    ScoresOut,
    Source,
    Sources,
    Token,
    Usage,
)
from api.telemetry import Metrics, Record
from retrieval.retriever import Retrieval, Retriever
from retrieval.types import Hit, QueueFull

LATE = "the answer took longer than API_DEADLINE_SECONDS"
NEAR_DEADLINE = 0.5
"""When less than this share of the time is left for the engine, it gets half of the passages."""


class Stages(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer is made with, and its limits."""

    retriever: Retriever
    engines: Engines
    prompts: PromptBuilder
    metrics: Metrics
    context_tokens: int
    max_tokens: int
    temperature: float
    deadline_s: float


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One question on its way: what was asked, by which request, until when."""

    request: QueryRequest
    record: Record
    stages: Stages
    deadline: float
    """A time of the event loop."""
    pinned: str | None


async def answer(
    request: QueryRequest, stages: Stages, record: Record, *, pinned: str | None = None
) -> AsyncGenerator[Event]:
    """Yield Sources, then Tokens, then Done.

    Raises what the engines raise, before the first Token or after it (then with the usage so
    far), and DeadlineExceeded; an answer without Done is not whole. `pinned` names an engine.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + stages.deadline_s - record.elapsed_ms() / 1000
    ask = Ask(request=request, record=record, stages=stages, deadline=deadline, pinned=pinned)
    record.answers = True
    with stages.metrics.open_streams.track_inprogress():
        try:
            async with asyncio.timeout_at(deadline):
                found = await retrieve(stages.retriever, request.query, request.top_k, record)
        except TimeoutError as exc:
            raise DeadlineExceeded(LATE) from exc
        hits = found.hits
        if hits and deadline - loop.time() < NEAR_DEADLINE * stages.deadline_s:
            hits = hits[: (len(hits) + 1) // 2]
            record.degraded.append("fewer_passages")
        sources = [_source(n, hit) for n, hit in enumerate(hits, 1)]
        yield Sources(sources)
        if sources:
            async with aclosing(_generate(ask, sources)) as events:
                async for event in events:
                    if isinstance(event, Finish):
                        yield _done(event, ask, found.generation)
                    else:
                        yield event
        else:
            record.engine = record.model = ""
            yield Token(NO_PASSAGES)
            unused = Usage(prompt_tokens=0, completion_tokens=0)
            yield _done(Finish("no_passages", unused), ask, found.generation)


async def _generate(ask: Ask, sources: list[Source]) -> AsyncGenerator[Token | Finish]:
    """Yield the engine's Tokens and its Finish, which has a usage.

    A prompt that the engine finds too long is cut by half of its passages and sent again, as
    long as there are any. Tokens that were made are counted on every way out.
    """
    stages, record, request = ask.stages, ask.record, ask.request
    sampling = Sampling(
        max_tokens=request.max_tokens or stages.max_tokens,
        temperature=stages.temperature if request.temperature is None else request.temperature,
    )
    context_tokens = min(
        stages.context_tokens, stages.engines.context_tokens or stages.context_tokens
    )
    offered = sources
    while True:
        started = time.perf_counter()
        budget = context_tokens - sampling.max_tokens
        prompt = stages.prompts.build(request.query, offered, request.history, budget_tokens=budget)
        record.stages_ms["prompt"] = _ms_since(started)
        usage: Usage | None = None
        pieces = stages.engines.stream(
            prompt.messages,
            sampling,
            request_id=record.request_id,
            deadline=ask.deadline,
            pinned=ask.pinned,
        )
        try:
            async with aclosing(_timed(pieces, stages, record)) as timed:
                async for piece in timed:
                    if isinstance(piece, Finish):
                        usage = piece.usage or _estimate(prompt.messages, record)
                        if prompt.n_passages < len(sources):
                            record.degraded.append("cut_prompt")
                        yield Finish(piece.finish_reason, usage)
                        return
                    yield Token(piece)
        except PromptTooLong:
            if not prompt.n_passages:
                raise
            offered = sources[: prompt.n_passages // 2]
        except RagError as error:
            if record.completion_tokens:
                error.usage = usage = _estimate(prompt.messages, record)
            raise
        finally:
            if record.completion_tokens:
                _count_tokens(usage or _estimate(prompt.messages, record), stages, record)


async def retrieve(retriever: Retriever, query: str, k: int, record: Record) -> Retrieval:
    """Find passages and note the time of each stage. Raises EngineOverloaded."""
    try:
        retrieval = await retriever.retrieve(query, k)
    except QueueFull as exc:
        raise EngineOverloaded("too many questions wait for the embedding model") from exc
    record.stages_ms |= retrieval.latency_ms
    return retrieval


async def _timed(
    pieces: AsyncGenerator[Chosen | str | Finish], stages: Stages, record: Record
) -> AsyncGenerator[str | Finish]:
    """Pass the engine's pieces on, noting which engine it is and when each piece came."""
    metrics = stages.metrics
    started = last = time.perf_counter()
    inter_token: Histogram | None = None
    async with aclosing(pieces):
        async for piece in pieces:
            now = time.perf_counter()
            if isinstance(piece, Chosen):
                record.engine, record.model = piece.engine.name, piece.engine.model
                continue
            if isinstance(piece, Finish):
                record.stages_ms["generation"] = (now - started) * 1000
            elif inter_token is not None:
                inter_token.observe(now - last)
            else:
                inter_token = metrics.inter_token.labels(record.engine)
                record.stages_ms["first_token"] = (now - started) * 1000
                since_request_s = record.elapsed_ms() / 1000
                metrics.first_token.labels(record.endpoint, record.engine).observe(since_request_s)
            record.completion_tokens += isinstance(piece, str)
            last = now
            yield piece


def _source(n: int, hit: Hit) -> Source:
    passage = hit.passage
    return Source(
        n=n,
        doc_id=passage.doc_id,
        passage_id=passage.passage_id,
        title=passage.title,
        text=passage.text,
        start=passage.start,
        end=passage.end,
        scores=scores_out(hit),
    )


def scores_out(hit: Hit) -> ScoresOut:
    scores = hit.scores
    return ScoresOut(scores.dense, scores.sparse, scores.fused, scores.rerank)


def _estimate(messages: list[dict[str, str]], record: Record) -> Usage:
    """Count ourselves: engines send one token a piece, or close to it."""
    prompt_tokens = sum(estimate_tokens(message["content"]) for message in messages)
    return Usage(
        prompt_tokens=prompt_tokens, completion_tokens=record.completion_tokens, estimated=True
    )


def _count_tokens(usage: Usage, stages: Stages, record: Record) -> None:
    tokens = stages.metrics.tokens
    tokens.labels("prompt", record.engine, record.model).inc(usage.prompt_tokens)
    tokens.labels("completion", record.engine, record.model).inc(usage.completion_tokens)


def _done(finish: Finish, ask: Ask, generation: str) -> Done:
    record = ask.record
    record.stages_ms["total"] = record.elapsed_ms()
    return Done(
        finish_reason=finish.finish_reason,
        usage=finish.usage or Usage(prompt_tokens=0, completion_tokens=0, estimated=True),
        latency_ms={stage: round(ms, 2) for stage, ms in record.stages_ms.items()},
        degraded=record.degraded,
        request_id=record.request_id,
        engine=record.engine,
        model=record.model,
        index_generation=generation,
    )


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
