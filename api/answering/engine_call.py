"""From sources to the engine's first piece: a place before the engine, the prompt, the money.

What was taken is given back once, on every way out: `Begun.end` does it without waiting, so that
it holds for a client that leaves and for a process that is stopped as well.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from itertools import pairwise

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
    """An answer that the engine has begun, with what is held for it."""

    def __init__(
        self, ask: AnswerContext, permit: Permit, opened: Opened, prompt: Prompt, hold: Hold
    ):
        self.first: str | Finish = opened.first
        self.rest: AsyncGenerator[str | Finish] = opened.rest
        self.times: list[float] = []
        """time.perf_counter() of each piece; observing each as it comes would cost more than
        relaying it."""
        self.usage = NOTHING_USED
        """As the engine counted, from the end on."""
        self._ask = ask
        self._permit = permit
        self._opened = opened
        self._prompt = prompt
        self._hold = hold
        self._started = time.perf_counter()

    def finish(self, finish: Finish) -> None:
        self.usage = finish.usage or self.usage

    def failed(self, error: RagError) -> None:
        self._ask.stages.engines.note(self._opened.engine, error)
        error.usage = _estimate(self._prompt, len(self.times))

    def end(self) -> None:
        """Give back and count what was made, also of an answer that broke off."""
        ask, stages = self._ask, self._ask.stages
        self._permit.release()
        if self.usage is NOTHING_USED:
            self.usage = _estimate(self._prompt, len(self.times))
        usage = self.usage
        stages.spending.settle(self._hold, ask.record, usage)
        n_tokens = usage.prompt_tokens + usage.completion_tokens
        stages.door.correct_soon(ask.admitted, n_tokens)
        self._observe(usage)

    def _observe(self, usage: Usage) -> None:
        record, metrics = self._ask.record, self._ask.stages.metrics
        if self.times:
            since_request_s = (record.elapsed_ms() - ms_since(self.times[0])) / 1000
            metrics.first_token.labels(record.endpoint, record.engine).observe(since_request_s)
        record.note("generation", record.stages_ms["first_token"] + ms_since(self._started))
        record.prompt_tokens = usage.prompt_tokens
        record.completion_tokens = usage.completion_tokens
        inter_token = metrics.inter_token.labels(record.engine)
        for earlier, later in pairwise(self.times):
            inter_token.observe(later - earlier)
        for direction, count in (
            ("prompt", usage.prompt_tokens),
            ("completion", usage.completion_tokens),
        ):
            metrics.tokens.labels(direction, record.engine, record.model).inc(count)


async def begin(ask: AnswerContext, sources: list[Source]) -> EngineCall:
    """Wait for a place before the engine, and for its first piece.

    Raises what the engines raise, EngineOverloaded, BudgetExhausted, LedgerDown, DeadlineExceeded.
    """
    permit = await _place(ask)
    try:
        return await _open(ask, sources, permit)
    except BaseException:
        permit.release()
        raise


async def _place(ask: AnswerContext) -> Permit:
    started = time.perf_counter()
    subject = ask.admitted.subject or ask.record.peer
    try:
        async with asyncio.timeout_at(ask.deadline):
            permit = await ask.stages.queue.enter(subject, ask.lane)
    except TimeoutError as exc:
        raise DeadlineExceeded(LATE) from exc
    finally:
        ask.record.note("queue", ms_since(started))
    return permit


async def _open(ask: AnswerContext, sources: list[Source], permit: Permit) -> EngineCall:
    """Begin the answer, with as many of the sources as the engine takes.

    A prompt that the engine finds too long is cut to half of its passages and sent again, as
    long as there are any: the money held for the first is enough for the shorter ones.
    """
    stages, record = ask.stages, ask.record
    sampling = stages.sampling(ask.request)
    prompt = _prompt(ask, sources, sampling)
    engines = stages.engines
    models = [engines[ask.pinned].model] if ask.pinned else [e.model for e in engines.all]
    hold = await stages.spending.reserve(
        prompt.messages, sampling.max_tokens, models, ask.admitted.caller, record
    )
    started = time.perf_counter()
    try:
        while True:
            try:
                opened = await _first_piece(ask, prompt, sampling)
                break
            except PromptTooLong:
                if not prompt.n_passages:
                    raise
                prompt = _prompt(ask, sources[: prompt.n_passages // 2], sampling)
    except _NOTHING_MADE:
        stages.spending.release(hold)
        raise
    except BaseException:  # it may have read the prompt, and will ask to be paid for that
        record.engine = record.engine or engines.all[0].name
        record.model = record.model or models[0]
        stages.spending.settle(hold, record, _estimate(prompt, 0))
        raise
    if prompt.n_passages < len(sources):
        record.degraded.append("cut_prompt")
    record.engine, record.model = opened.engine.name, opened.engine.model
    record.note("first_token", ms_since(started))
    return EngineCall(ask, permit, opened, prompt, hold)


async def _first_piece(ask: AnswerContext, prompt: Prompt, sampling: Sampling) -> Opened:
    return await ask.stages.engines.open(
        prompt.messages,
        sampling,
        request_id=ask.record.request_id,
        deadline=ask.deadline,
        pinned=ask.pinned,
    )


def _prompt(ask: AnswerContext, sources: list[Source], sampling: Sampling) -> Prompt:
    started = time.perf_counter()
    stages, request = ask.stages, ask.request
    room = min(stages.context_tokens, stages.engines.context_tokens or stages.context_tokens)
    budget = room - sampling.max_tokens
    prompt = stages.prompts.build(request.query, sources, request.history, budget_tokens=budget)
    ask.record.note("prompt", ms_since(started))
    return prompt


def _estimate(prompt: Prompt, n_pieces: int) -> Usage:
    """Count ourselves: engines send one token a piece, or close to it."""
    prompt_tokens = sum(estimate_tokens(message["content"]) for message in prompt.messages)
    return Usage(prompt_tokens=prompt_tokens, completion_tokens=n_pieces, estimated=True)


def ms_since(started: float) -> float:
    """`started` is a time.perf_counter()."""
    return (time.perf_counter() - started) * 1000
