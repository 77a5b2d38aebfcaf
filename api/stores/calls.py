"""Calls to Redis or Valkey: bounded in time, behind a circuit breaker, safe to cancel.

What goes wrong becomes StoreDown or StoreRefused; what that means is up to the caller: a miss
for the cache, the declared fail mode for the ledger.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.exceptions import NoScriptError, RedisError, ResponseError

from api.stores.breaker import Breaker

TIMEOUT_S = 0.15
"""Of one trip; retries and waiting for a connection count as well."""
TICKS = 10


class StoreDown(Exception):
    """The store does not answer, or was not asked because it did not before."""


class StoreRefused(Exception):
    """The store answered with an error: out of memory, read-only, not allowed."""


class Script:
    """A Lua script and the digest by which a server knows it."""

    def __init__(self, lua: str) -> None:
        self.lua = lua
        self.sha = hashlib.sha1(lua.encode(), usedforsecurity=False).hexdigest()


@asynccontextmanager
async def _patience(seconds: float) -> AsyncIterator[None]:
    """Raises TimeoutError once the event loop has run for so long, and so many times, in vain.

    While it does not run, because the machine or we are busy, it is not the store that is late: an
    answer may lie there unread.
    """
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle
    async with asyncio.timeout(None) as limit:

        def tick(left: int) -> None:
            nonlocal timer
            if left:
                timer = loop.call_later(seconds / TICKS, tick, left - 1)
            else:
                limit.reschedule(loop.time())

        timer = loop.call_later(seconds / TICKS, tick, TICKS - 1)
        try:
            yield
        finally:
            timer.cancel()


class RedisCalls:
    """Makes calls. `redis` is a redis.asyncio.Redis: bytes returned, no retries."""

    def __init__(self, redis: Any, breaker: Breaker, *, timeout_s: float = TIMEOUT_S) -> None:
        self.redis = redis
        self.breaker = breaker
        self._timeout_s = timeout_s

    async def call(self, command: Callable[[], Awaitable[Any]]) -> Any:
        """Raises StoreDown, StoreRefused."""
        if not self.breaker.allows():
            raise StoreDown("not asked: it did not answer before")
        task = asyncio.current_task()
        n_cancels = task.cancelling() if task is not None else 0
        try:
            async with _patience(self._timeout_s):
                answer = await command()
        except ResponseError as exc:
            self.breaker.succeeded()
            raise StoreRefused(str(exc)) from exc
        except (RedisError, OSError, TimeoutError) as exc:
            self.breaker.failed(exc)
            raise StoreDown(type(exc).__name__) from exc
        self.breaker.succeeded()
        # redis-py sends under asyncio.wait_for, which before Python 3.12 loses a cancellation that
        # meets its end: https://github.com/python/cpython/issues/86296
        if task is not None and task.cancelling() > n_cancels:
            raise asyncio.CancelledError
        return answer

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a script in one trip, or two where the server has not seen it since its start."""

        async def evaluate() -> Any:
            try:
                return await self.redis.evalsha(script.sha, len(keys), *keys, *args)
            except NoScriptError:
                return await self.redis.eval(script.lua, len(keys), *keys, *args)

        return await self.call(evaluate)
