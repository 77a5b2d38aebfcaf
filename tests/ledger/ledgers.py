"""Ledgers on a server, on a clock of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from redis.asyncio import Redis

from api.ledger.ledger import FailMode, Ledger
from api.ledger.types import Hold, LedgerScope, ScopeState, Settled
from api.stores.breaker import Breaker
from api.stores.calls import RedisCalls
from tests.support.servers import RedisServer
from tests.support.waiting import until

NOON = 1_763_812_800.0
"""2025-11-22 12:00 UTC: the clock of most tests."""


class Clock:
    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(
    redis: Redis,
    *,
    fail_mode: FailMode = "closed",
    clock: Callable[[], float] | None = None,
    **options,
) -> AsyncIterator[Ledger]:
    """A started ledger whose breaker probes at once, so that nothing waits for it."""
    calls = RedisCalls(redis, Breaker("redis_ledger", open_s=0.0), timeout_s=5.0)
    ledger = Ledger(calls, fail_mode=fail_mode, clock=clock, retry_s=0.01, **options)
    ledger.start()
    try:
        yield ledger
    finally:
        await ledger.close(0.5)


def run(server: RedisServer, scenario: Callable[[Ledger], Awaitable[None]], **options) -> None:
    """Run a scenario with a ledger on the server."""

    async def main() -> None:
        async with server.client() as redis, opened(redis, **options) as ledger:
            await scenario(ledger)

    asyncio.run(main())


async def delivered(ledger: Ledger) -> None:
    await until(lambda: not ledger.settlements.n_waiting and not ledger.book.unfolded)


async def state_of(ledger: Ledger, scope: LedgerScope) -> ScopeState:
    (state,) = await ledger.state([scope])
    return state


async def amounts(ledger: Ledger, scope: LedgerScope) -> tuple[int, int]:
    """Spent and reserved."""
    state = await state_of(ledger, scope)
    return state.spent, state.reserved


async def settle(ledger: Ledger, hold: Hold, actual: int) -> Settled:
    """Settle, with more patience than an answer has."""
    async with asyncio.timeout(20):
        settled = await ledger.settle_soon(hold, actual)
    assert settled is not None
    return settled


@contextmanager
def away(server: RedisServer, harm: str, ledger: Ledger) -> Iterator[None]:
    """Freeze or kill the server for a while, in which a trip does not wait for long."""
    calls = ledger._store._calls
    patience_s, calls._timeout_s = calls._timeout_s, 0.1
    getattr(server, harm)()
    yield
    calls._timeout_s = patience_s
    server.thaw() if harm == "freeze" else server.start()


GLOBAL = LedgerScope("global", 1000)
KEY = LedgerScope("key:k1", 300, "day")
TENANT = LedgerScope("tenant:acme", 5000, "month")
ALL = [GLOBAL, KEY, TENANT]
