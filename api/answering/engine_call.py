"""Start an answer at the engine: take a queue slot, build the prompt, reserve the budget, wait for
the first token.

What was taken is given back once, on every way out. That needs no waiting, so it holds for a client
that leaves and for a process that is stopped as well.
"""

import asyncio
import time
from itertools import pairwise
from types import TracebackType
from typing import Self

from api.answering.context import AnswerContext
from api.answering.events import Source
from api.answering.prompt import Prompt
from api.engines.client import Finish, Sampling
from api.engines.pool import Opened
from api.engines.queue import Permit
from api.errors import (
    DeadlineExceeded,
    EngineAuth,
    EngineDown,
    EngineOverloaded,
    PromptTooLong,
    RagError,
)
from api.ledger.types import Hold
from api.usage import NOTHING_USED, Usage, estimate_tokens

LATE = "the answer took longer than API_DEADLINE_SECONDS"
_NOTHING_MADE = (EngineOverloaded, EngineDown, EngineAuth, PromptTooLong)
"""The engine refused: there is nothing to pay for."""


class EngineCall:
    """An answer that the engine has begun: `async with` it, and iterate over its pieces of text."""

    def __init__(
        self, context: AnswerContext, permit: Permit, opened: Opened, prompt: Prompt, hold: Hold
    ):
        self.usage = NOTHING_USED
        """As the engine counted, else as we estimate; from the end on."""
        self._context = context
        self._permit = permit
        self._opened = opened
        self._prompt = prompt
        self._hold = hold
        self._started = time.perf_counter()
        self._first: str | Finish | None = opened.first
        self._finish: Finish | None = None
        # time.perf_counter() of each piece: observing each as it comes costs more than relaying it.
        self._times: list[float] = []

    @property
    def finish_reason(self) -> str:
        """stop or length, once all pieces were read."""
        if self._finish is None:
            raise RuntimeError("an engine's stream ended without its reason. This is a bug.")
        return self._finish.finish_reason

    async def __aenter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        """Return the next piece. Raises what the engine raises mid-answer."""
        piece, self._first = self._first, None
        if piece is None:
            piece = await anext(self._opened.rest)
        if isinstance(piece, Finish):
            self._finish = piece
            raise StopAsyncIteration
        self._times.append(time.perf_counter())
        return piece

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give back and count what was made, also of an answer that broke off."""
        try:
            await self._opened.rest.aclose()
        finally:
            if isinstance(error, RagError):
                self._context.stages.engines.note(self._opened.engine, error)
                error.usage = _estimate(self._prompt, len(self._times))
            self._end()

    def _end(self) -> None:
        context, stages, record = self._context, self._context.stages, self._context.record
        self._permit.release()
        told = self._finish.usage if self._finish else None
        usage = self.usage = told or _estimate(self._prompt, len(self._times))
        record.cost_eur = stages.spending.settle(self._hold, usage, record.engine, record.model)
        stages.door.correct_soon(context.admitted, usage.prompt_tokens + usage.completion_tokens)
        self._observe(usage)

    def _observe(self, usage: Usage) -> None:
        record, metrics = self._context.record, self._context.stages.metrics
        if self._times:
            since_request_s = (record.elapsed_ms() - ms_since(self._times[0])) / 1000
            metrics.first_token.labels(record.endpoint, record.engine).observe(since_request_s)
        record.note("generation", record.stages_ms["first_token"] + ms_since(self._started))
        record.prompt_tokens = usage.prompt_tokens
        record.completion_tokens = usage.completion_tokens
        inter_token = metrics.inter_token.labels(record.engine)
        for earlier, later in pairwise(self._times):
            inter_token.observe(later - earlier)
        for direction, count in (
            ("prompt", usage.prompt_tokens),
            ("completion", usage.completion_tokens),
        ):
            metrics.tokens.labels(direction, record.engine, record.model).inc(count)


async def begin(context: AnswerContext, sources: list[Source]) -> EngineCall:
    """Wait for a slot of the queue before the engine, and for the engine's first piece.

    Raises what the engines raise, EngineOverloaded, BudgetExhausted, LedgerDown, DeadlineExceeded.
    """
    permit = await _enter_queue(context)
    try:
        return await _open(context, sources, permit)
    except BaseException:
        permit.release()
        raise


async def _enter_queue(context: AnswerContext) -> Permit:
    started = time.perf_counter()
    subject = context.admitted.subject or context.record.peer
    try:
        async with asyncio.timeout_at(context.deadline):
            permit = await context.stages.queue.enter(subject, context.lane)
    except TimeoutError as exc:
        raise DeadlineExceeded(LATE) from exc
    finally:
        context.record.note("queue", ms_since(started))
    return permit


async def _open(context: AnswerContext, sources: list[Source], permit: Permit) -> EngineCall:
    """Begin the answer, with as many of the sources as the engine takes.

    A prompt that the engine finds too long is cut to half of its passages and sent again, as
    long as there are any: the money held for the first is enough for the shorter ones.
    """
    stages, record = context.stages, context.record
    sampling = stages.sampling(context.request)
    prompt = _prompt(context, sources, sampling)
    engines = stages.engines
    models = [engines[context.pinned].model] if context.pinned else [e.model for e in engines.all]
    hold = await stages.spending.reserve(
        prompt.messages, sampling.max_tokens, models, context.admitted.caller, record.request_id
    )
    if hold.is_local:
        record.degraded.append("ledger_open")
    started = time.perf_counter()
    try:
        while True:
            try:
                opened = await _first_piece(context, prompt, sampling)
                break
            except PromptTooLong:
                if not prompt.n_passages:
                    raise
                prompt = _prompt(context, sources[: prompt.n_passages // 2], sampling)
    except _NOTHING_MADE:
        stages.spending.release(hold)
        raise
    except BaseException:  # it may have read the prompt, and will ask to be paid for that
        record.engine = record.engine or engines.all[0].name
        record.model = record.model or models[0]
        read = _estimate(prompt, 0)
        record.cost_eur = stages.spending.settle(hold, read, record.engine, record.model)
        raise
    if prompt.n_passages < len(sources):
        record.degraded.append("cut_prompt")
    record.engine, record.model = opened.engine.name, opened.engine.model
    record.note("first_token", ms_since(started))
    return EngineCall(context, permit, opened, prompt, hold)


async def _first_piece(context: AnswerContext, prompt: Prompt, sampling: Sampling) -> Opened:
    return await context.stages.engines.open(
        prompt.messages,
        sampling,
        request_id=context.record.request_id,
        deadline=context.deadline,
        pinned=context.pinned,
    )


def _prompt(context: AnswerContext, sources: list[Source], sampling: Sampling) -> Prompt:
    started = time.perf_counter()
    stages, request = context.stages, context.request
    room = min(stages.context_tokens, stages.engines.context_tokens or stages.context_tokens)
    budget = room - sampling.max_tokens
    prompt = stages.prompts.build(request.query, sources, request.history, budget_tokens=budget)
    context.record.note("prompt", ms_since(started))
    return prompt


def _estimate(prompt: Prompt, n_pieces: int) -> Usage:
    """Count ourselves: engines send one token a piece, or close to it."""
    prompt_tokens = sum(estimate_tokens(message["content"]) for message in prompt.messages)
    return Usage(prompt_tokens=prompt_tokens, completion_tokens=n_pieces, estimated=True)


def ms_since(started: float) -> float:
    """`started` is a time.perf_counter()."""
    return (time.perf_counter() - started) * 1000
