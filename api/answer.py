"""The way of a question, top to bottom: embed, retrieve, prompt, engine, relay.

One generator of events serves every route. It knows no HTTP and times each stage.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from api.errors import EngineOverloaded
from api.generation import Engine, Finish, Sampling
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


class Stages(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer is made with, and its limits."""

    retriever: Retriever
    engine: Engine
    prompts: PromptBuilder
    metrics: Metrics
    context_tokens: int
    max_tokens: int
    temperature: float
    deadline_s: float


async def answer(request: QueryRequest, stages: Stages, record: Record) -> AsyncGenerator[Event]:
    """Yield Sources, then Tokens, then Done.

    Raises what the engine's stream raises, before the first Token or after it; an answer
    without Done is not whole.
    """
    deadline = asyncio.get_running_loop().time() + stages.deadline_s
    record.answers = True
    record.engine = stages.engine.name
    with stages.metrics.open_streams.track_inprogress():
        retrieval = await retrieve(stages.retriever, request.query, request.top_k, record)
        sources = [_source(n, hit) for n, hit in enumerate(retrieval.hits, 1)]
        yield Sources(sources)
        if not sources:
            yield Token(NO_PASSAGES)
            unused = Usage(prompt_tokens=0, completion_tokens=0)
            yield _done("no_passages", unused, [], stages, record, retrieval.generation)
            return

        started = time.perf_counter()
        sampling = Sampling(
            max_tokens=request.max_tokens or stages.max_tokens,
            temperature=stages.temperature if request.temperature is None else request.temperature,
        )
        prompt = stages.prompts.build(
            request.query,
            sources,
            request.history,
            budget_tokens=stages.context_tokens - sampling.max_tokens,
        )
        record.stages_ms["prompt"] = _ms_since(started)

        finish: Finish | None = None
        pieces = stages.engine.stream(
            prompt.messages, sampling, request_id=record.request_id, deadline=deadline
        )
        async with aclosing(_timed(pieces, stages, record)) as timed:
            async for piece in timed:
                if isinstance(piece, Finish):
                    finish = piece
                else:
                    yield Token(piece)
        if finish is None:
            raise RuntimeError("an engine's stream ended without Finish. This is a bug.")
        usage = finish.usage or _estimate(prompt.messages, record)
        degraded = ["cut_prompt"] if prompt.n_passages < len(sources) else []
        yield _done(finish.finish_reason, usage, degraded, stages, record, retrieval.generation)


async def retrieve(retriever: Retriever, query: str, k: int, record: Record) -> Retrieval:
    """Find passages and note the time of each stage. Raises EngineOverloaded."""
    try:
        retrieval = await retriever.retrieve(query, k)
    except QueueFull as exc:
        raise EngineOverloaded("too many questions wait for the embedding model") from exc
    record.stages_ms |= retrieval.latency_ms
    return retrieval


async def _timed(
    pieces: AsyncGenerator[str | Finish], stages: Stages, record: Record
) -> AsyncGenerator[str | Finish]:
    """Pass the engine's pieces on, noting when each came."""
    engine, metrics = stages.engine.name, stages.metrics
    inter_token = metrics.inter_token.labels(engine)
    started = last = time.perf_counter()
    with metrics.engine_in_flight.labels(engine).track_inprogress():
        async with aclosing(pieces):
            async for piece in pieces:
                now = time.perf_counter()
                if isinstance(piece, Finish):
                    record.stages_ms["generation"] = (now - started) * 1000
                elif record.completion_tokens:
                    inter_token.observe(now - last)
                else:
                    record.stages_ms["first_token"] = (now - started) * 1000
                    since_request_s = record.elapsed_ms() / 1000
                    metrics.first_token.labels(record.endpoint, engine).observe(since_request_s)
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


def _done(
    finish_reason: str, usage: Usage, degraded: list[str], stages: Stages, record: Record,
    generation: str,
) -> Done:  # fmt: skip
    for direction, count in (
        ("prompt", usage.prompt_tokens),
        ("completion", usage.completion_tokens),
    ):
        stages.metrics.tokens.labels(direction, stages.engine.name, stages.engine.model).inc(count)
    record.stages_ms["total"] = record.elapsed_ms()
    return Done(
        finish_reason=finish_reason,
        usage=usage,
        latency_ms={stage: round(ms, 2) for stage, ms in record.stages_ms.items()},
        degraded=degraded,
        request_id=record.request_id,
        engine=stages.engine.name,
        model=stages.engine.model,
        index_generation=generation,
    )


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
