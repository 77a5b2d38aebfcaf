"""Several engines as one: the least loaded that works, and another when it fails in time.

Health is passive and per process: failures close an engine for a while that doubles, then one
question is let through as a probe. Once a token is out, nothing is retried: the caller has it.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec

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
from api.generation import Engine, Finish, Sampling

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


class Chosen(msgspec.Struct, frozen=True):
    """Comes once, before the first piece: from here on the answer is this engine's."""

    engine: Engine


class Health(msgspec.Struct):
    """`closed_until` is a time of the event loop."""

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
    """`engines` in the order of preference among equals."""

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

    async def stream(
        self,
        messages: list[dict[str, str]],
        sampling: Sampling,
        *,
        request_id: str,
        deadline: float,
        pinned: str | None = None,
    ) -> AsyncGenerator[Chosen | str | Finish]:
        """Yield Chosen, then what that engine says.

        Raises what Engine.stream raises: of the first engine, or of the second when the first
        failed before its first piece and the retry budget allowed another.
        """
        self._retries = min(RETRY_BURST, self._retries + RETRY_SHARE)
        engine = self[pinned] if pinned else self._choose(())
        tried: list[Engine] = []
        while True:
            tried.append(engine)
            pieces = self._attempt(
                engine, messages, sampling, request_id=request_id, deadline=deadline
            )
            try:
                async with aclosing(pieces):
                    async for piece in pieces:
                        yield piece
                return
            except _BeforeFirst as failure:
                others = [other for other in self.all if other not in tried]
                may_retry = not pinned and others and len(tried) < 2 and self._retries >= 1
                if not (may_retry and isinstance(failure.error, _RETRIED)):
                    raise failure.error from failure.error.__cause__
                self._retries -= 1
                engine = self._choose(tried)

    async def _attempt(
        self,
        engine: Engine,
        messages: list[dict[str, str]],
        sampling: Sampling,
        *,
        request_id: str,
        deadline: float,
    ) -> AsyncGenerator[Chosen | str | Finish]:
        """Pass one engine's pieces on and note its health. Raises _BeforeFirst, then RagErrors."""
        loop, health = asyncio.get_running_loop(), self._health[engine.name]
        health.is_probed = health.failures > 0
        chosen = False
        pieces = engine.stream(messages, sampling, request_id=request_id, deadline=deadline)
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    if not chosen:
                        chosen = True
                        health.succeed()
                        yield Chosen(engine)
                    yield piece
        except RagError as error:
            if isinstance(error, _COUNTED):
                health.fail(loop.time())
            if chosen:
                raise
            raise _BeforeFirst(error) from error
        finally:
            health.is_probed = False

    def _choose(self, tried: Sequence[Engine]) -> Engine:
        """Return the least loaded engine that works; if none does, the one to be tried first."""
        now = asyncio.get_running_loop().time()
        left = [engine for engine in self.all if engine not in tried]
        working = [engine for engine in left if self._health[engine.name].is_open(now)]
        if working:
            return min(working, key=lambda engine: engine.in_flight)
        return min(left, key=lambda engine: self._health[engine.name].closed_until)


class _BeforeFirst(Exception):
    """The engine failed while another could still take over."""

    def __init__(self, error: RagError) -> None:
        self.error = error
