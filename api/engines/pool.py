"""Load balancing over engines: ask the least loaded that works, retry once on another.

Health is passive and per process: failures close an engine for a while that doubles, then one
question is let through as a probe. Once a token is out, nothing is retried: the caller has it.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence

import msgspec

from api.engines.client import Engine, Finish, Sampling
from api.errors import (
    EngineAuth,
    EngineDisconnect,
    EngineDown,
    EngineFailed,
    EngineOverloaded,
    EngineSilent,
    Invalid,
    RagError,
)

BACKOFF_S = 1.0
BACKOFF_MAX_S = 60.0
RETRY_SHARE = 0.1
"""Retries may add this share to the load of the engines, which are in trouble already."""
RETRY_BURST = 5.0

_RETRIED = (
    EngineAuth, EngineDisconnect, EngineDown, EngineFailed, EngineOverloaded, EngineSilent,
)  # fmt: skip
# Overload is a full engine, not a broken one: it is retried elsewhere, and not counted.
_COUNTED = (EngineAuth, EngineDisconnect, EngineDown, EngineFailed, EngineSilent)


class Opened(msgspec.Struct, frozen=True):
    """An answer whose first piece has arrived: the rest comes from this engine, or not at all."""

    engine: Engine
    first: str | Finish
    rest: AsyncGenerator[str | Finish]
    """To be closed by whoever holds it."""


class Health(msgspec.Struct):
    """Failures in a row of one engine. `closed_until` is a time of the event loop."""

    failures: int = 0
    closed_until: float = 0.0
    is_probed: bool = False

    def is_open(self, now: float) -> bool:
        return now >= self.closed_until and not self.is_probed

    def fail(self, now: float) -> None:
        self.failures += 1
        pause_s = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** (self.failures - 1))
        self.closed_until = now + pause_s * random.uniform(0.75, 1.25)  # not all replicas at once
        self.is_probed = False

    def succeed(self) -> None:
        self.failures, self.closed_until, self.is_probed = 0, 0.0, False


class Engines:
    """The engines of one app, in the order of preference among equals."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.all = tuple(engines)
        self._health = {engine.name: Health() for engine in engines}
        self._retries = RETRY_BURST

    def __getitem__(self, name: str) -> Engine:
        """Return the engine of that name. Raises Invalid."""
        for engine in self.all:
            if engine.name == name:
                return engine
        raise Invalid("X-Engine: no engine of that name")

    @property
    def context_tokens(self) -> int | None:
        """The smallest context, so that any of them can take the prompt over; None if unknown."""
        known = [engine.context_tokens for engine in self.all if engine.context_tokens]
        return min(known, default=None)

    def failures(self, name: str) -> int:
        """Return how many times in a row the engine has failed."""
        return self._health[name].failures

    async def open(
        self,
        messages: list[dict[str, str]],
        sampling: Sampling,
        *,
        request_id: str,
        deadline: float,
        pinned: str | None = None,
    ) -> Opened:
        """Return an answer with its first piece.

        Raises what Engine.stream raises: of the first engine, or of the second when the first
        failed before its first piece and the retry budget allowed another.
        """
        self._retries = min(RETRY_BURST, self._retries + RETRY_SHARE)
        engine = self[pinned] if pinned else self._choose(())
        try:
            return await self._attempt(engine, messages, sampling, request_id, deadline)
        except _RETRIED:
            if pinned or len(self.all) < 2 or self._retries < 1:
                raise
        self._retries -= 1
        engine = self._choose((engine,))
        return await self._attempt(engine, messages, sampling, request_id, deadline)

    async def _attempt(
        self,
        engine: Engine,
        messages: list[dict[str, str]],
        sampling: Sampling,
        request_id: str,
        deadline: float,
    ) -> Opened:
        """Wait for one engine's first piece and note its health."""
        health = self._health[engine.name]
        health.is_probed = health.failures > 0
        pieces = engine.stream(messages, sampling, request_id=request_id, deadline=deadline)
        try:
            first = await anext(pieces)
        except RagError as error:
            self.note(engine, error)
            raise
        finally:
            health.is_probed = False
        health.succeed()
        return Opened(engine, first, pieces)

    def note(self, engine: Engine, error: RagError) -> None:
        """Count a failure against the engine's health, if it is one that says it is broken."""
        if isinstance(error, _COUNTED):
            self._health[engine.name].fail(asyncio.get_running_loop().time())

    def _choose(self, tried: Sequence[Engine]) -> Engine:
        """Return the least loaded engine that works; if none does, the one to be tried first."""
        now = asyncio.get_running_loop().time()
        left = [engine for engine in self.all if engine not in tried]
        working = [engine for engine in left if self._health[engine.name].is_open(now)]
        if working:
            return min(working, key=lambda engine: engine.in_flight)
        return min(left, key=lambda engine: self._health[engine.name].closed_until)
