"""The way of a question, top to bottom: embed, retrieve, prompt, engine, relay.

One generator of events serves every route. It knows no HTTP and times each stage.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import pairwise

import msgspec

from api.engines import Engines, Opened
from api.errors import DeadlineExceeded, EngineOverloaded, PromptTooLong, RagError
from api.generation import Finish, Sampling
from api.prompt import NO_PASSAGES, Prompt, PromptBuilder, estimate_tokens
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
from retrieval.types import Float32Array, Hit, QueueFull

NOTHING_USED = Usage(prompt_tokens=0, completion_tokens=0)
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

    def sampling(self, request: QueryRequest) -> Sampling:
        return Sampling(
            max_tokens=request.max_tokens or self.max_tokens,
            temperature=self.temperature if request.temperature is None else request.temperature,
        )


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One question on its way: what was asked, by which request, until when."""

    request: QueryRequest
    record: Record
    stages: Stages
    deadline: float
    """A time of the event loop."""
    pinned: str | None


async def answer(
    request: QueryRequest,
    stages: Stages,
    record: Record,
    *,
    pinned: str | None = None,
    query_embedding: Float32Array | None = None,
) -> AsyncGenerator[Event]:
    """Yield Sources, then Tokens, then Done.

    Raises what the engines raise, before the first Token or after it (then with the usage so
    far), and DeadlineExceeded; an answer without Done is not whole. `pinned` names an engine,
    `query_embedding` is the vector of the question where it is known.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + stages.deadline_s - record.elapsed_ms() / 1000
    ask = Ask(request=request, record=record, stages=stages, deadline=deadline, pinned=pinned)
    record.answers = True
    with stages.metrics.open_streams.track_inprogress():
        try:
            async with asyncio.timeout_at(deadline):
                found = await retrieve(
                    stages.retriever,
                    request.query,
                    request.top_k,
                    record,
                    query_embedding=query_embedding,
                )
        except TimeoutError as exc:
            raise DeadlineExceeded(LATE) from exc
        hits = found.hits
        if hits and deadline - loop.time() < NEAR_DEADLINE * stages.deadline_s:
            hits = hits[: (len(hits) + 1) // 2]
            record.degraded.append("fewer_passages")
        sources = [_source(n, hit) for n, hit in enumerate(hits, 1)]
        yield Sources(sources)
        if not sources:
            record.engine = record.model = ""
            yield Token(NO_PASSAGES)
            yield _done(Finish("no_passages", NOTHING_USED), ask, found.generation)
            return

        started = time.perf_counter()
        opened, prompt = await _open(ask, sources)
        piece, timing = opened.first, Timing(ask, started)
        came_at = timing.times.append
        usage: Usage | None = None
        async with aclosing(opened.rest) as rest:
            try:
                while isinstance(piece, str):
                    came_at(time.perf_counter())
                    yield Token(piece)
                    piece = await anext(rest)
                usage = piece.usage
            except RagError as error:
                stages.engines.note(opened.engine, error)
                error.usage = _estimate(prompt, len(timing.times))
                raise
            finally:  # tokens that were made are counted on every way out
                usage = usage or _estimate(prompt, len(timing.times))
                timing.end(usage)
        yield _done(Finish(piece.finish_reason, usage), ask, found.generation)


async def _open(ask: Ask, sources: list[Source]) -> tuple[Opened, Prompt]:
    """Begin the answer, with as many of the sources as the engine takes.

    A prompt that the engine finds too long is cut to half of its passages and sent again, as
    long as there are any.
    """
    stages, record, request = ask.stages, ask.record, ask.request
    sampling = stages.sampling(request)
    context_tokens = min(
        stages.context_tokens, stages.engines.context_tokens or stages.context_tokens
    )
    offered = sources
    while True:
        started = time.perf_counter()
        budget = context_tokens - sampling.max_tokens
        prompt = stages.prompts.build(request.query, offered, request.history, budget_tokens=budget)
        record.stages_ms["prompt"] = _ms_since(started)
        try:
            opened = await stages.engines.open(
                prompt.messages,
                sampling,
                request_id=record.request_id,
                deadline=ask.deadline,
                pinned=ask.pinned,
            )
        except PromptTooLong:
            if not prompt.n_passages:
                raise
            offered = sources[: prompt.n_passages // 2]
            continue
        if prompt.n_passages < len(sources):
            record.degraded.append("cut_prompt")
        record.engine, record.model = opened.engine.name, opened.engine.model
        return opened, prompt


class Timing:
    """When the pieces of an answer came; handed to the metrics when it has ended.

    Observing each piece as it comes would cost more than relaying it.
    """

    def __init__(self, ask: Ask, started: float) -> None:
        self._ask = ask
        self._started = started
        self.times: list[float] = []
        """time.perf_counter() of each piece."""

    def end(self, usage: Usage) -> None:
        record, metrics = self._ask.record, self._ask.stages.metrics
        if self.times:
            first_ms = (self.times[0] - self._started) * 1000
            record.stages_ms["first_token"] = first_ms
            since_request_s = (record.elapsed_ms() - _ms_since(self.times[0])) / 1000
            metrics.first_token.labels(record.endpoint, record.engine).observe(since_request_s)
        record.stages_ms["generation"] = _ms_since(self._started)
        inter_token = metrics.inter_token.labels(record.engine)
        for earlier, later in pairwise(self.times):
            inter_token.observe(later - earlier)
        for direction, count in (
            ("prompt", usage.prompt_tokens),
            ("completion", usage.completion_tokens),
        ):
            metrics.tokens.labels(direction, record.engine, record.model).inc(count)


async def retrieve(
    retriever: Retriever,
    query: str,
    k: int,
    record: Record,
    *,
    query_embedding: Float32Array | None = None,
) -> Retrieval:
    """Find passages and note the time of each stage. Raises EngineOverloaded."""
    try:
        retrieval = await retriever.retrieve(query, k, query_embedding=query_embedding)
    except QueueFull as exc:
        raise EngineOverloaded("too many questions wait for the embedding model") from exc
    record.stages_ms = retrieval.latency_ms | record.stages_ms
    return retrieval


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


def _estimate(prompt: Prompt, n_pieces: int) -> Usage:
    """Count ourselves: engines send one token a piece, or close to it."""
    prompt_tokens = sum(estimate_tokens(message["content"]) for message in prompt.messages)
    return Usage(prompt_tokens=prompt_tokens, completion_tokens=n_pieces, estimated=True)


def _done(finish: Finish, ask: Ask, generation: str) -> Done:
    record = ask.record
    record.stages_ms["total"] = record.elapsed_ms()
    return Done(
        finish_reason=finish.finish_reason,
        usage=finish.usage or NOTHING_USED,
        latency_ms={stage: round(ms, 2) for stage, ms in record.stages_ms.items()},
        degraded=record.degraded,
        request_id=record.request_id,
        engine=record.engine,
        model=record.model,
        index_generation=generation,
    )


def _ms_since(started: float) -> float:
    return (time.perf_counter() - started) * 1000
