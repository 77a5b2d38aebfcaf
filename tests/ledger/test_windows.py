"""Leases and windows of the ledger: what ends, what is charged then, what is forgotten."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.ledger.ledger import Ledger
from api.ledger.scripts import KEYS, MARK_MS, WINDOW_KEEP_MS
from api.ledger.types import LedgerScope, Window
from tests.ledger.ledgers import ALL, GLOBAL, KEY, NOON, TENANT, Clock, amounts, opened, run, settle
from tests.support.servers import RedisServer


def test_lease_ended_is_charged_whole_once(server: RedisServer) -> None:
    clock = Clock()

    async def scenario(ledger: Ledger) -> None:
        await ledger.reserve("r1", ALL, 200, 60)
        clock.now += 59.9
        assert await amounts(ledger, GLOBAL) == (0, 200)
        clock.now += 0.1
        for _ in range(2):
            for scope in ALL:
                assert await amounts(ledger, scope) == (200, 0)

    run(server, scenario, clock=clock)


@pytest.mark.parametrize(("actual", "overshoot"), [(150, 0), (0, 0), (250, 50)])
def test_settle_after_the_lease_corrects_the_charge(
    server: RedisServer, actual: int, overshoot: int
) -> None:
    clock = Clock()

    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", ALL, 200, 60)
        clock.now += 100
        assert await amounts(ledger, GLOBAL) == (200, 0)
        settled = await settle(ledger, hold, actual)
        assert (settled.how, settled.overshoot) == ("expired", overshoot)
        assert (await settle(ledger, hold, 7)).how == "again"
        assert await amounts(ledger, GLOBAL) == (actual, 0)

    run(server, scenario, clock=clock)


def test_settle_in_the_next_window_belongs_to_that_of_the_hold(server: RedisServer) -> None:
    clock = Clock(NOON + 3590)

    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", ALL, 200, 60)
        clock.now += 20
        assert await amounts(ledger, GLOBAL) == (0, 0)
        assert await amounts(ledger, KEY) == (0, 200)
        await settle(ledger, hold, 150)
        assert await amounts(ledger, GLOBAL) == (0, 0)
        assert await amounts(ledger, KEY) == (150, 0)
        clock.now = NOON
        assert await amounts(ledger, GLOBAL) == (150, 0)

    run(server, scenario, clock=clock)


def test_settle_long_after_changes_nothing(server: RedisServer) -> None:
    clock = Clock()

    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", [TENANT], 200, 60)
        clock.now += 61
        assert await amounts(ledger, TENANT) == (200, 0)
        clock.now += MARK_MS / 1000
        assert await amounts(ledger, TENANT) == (200, 0)
        assert (await settle(ledger, hold, 10)).how == "late"
        assert await amounts(ledger, TENANT) == (200, 0)

    run(server, scenario, clock=clock)


def test_ledger_forgets_what_is_over(server: RedisServer) -> None:
    clock = Clock()

    async def scenario(ledger: Ledger) -> None:
        for n in range(300):  # more than one script forgets
            hold = await ledger.reserve(f"r{n}", [GLOBAL, LedgerScope(f"key:{n}", 9)], 1, 60)
            if n % 3:
                await settle(ledger, hold, 1)
        clock.now += 3600 + WINDOW_KEEP_MS / 1000 + MARK_MS / 1000
        for _ in range(20):
            await ledger.state([GLOBAL])
            clock.now += MARK_MS / 1000
        assert await ledger._store._calls.redis.keys("*") == []

    run(server, scenario, clock=clock)


def test_lease_ended_in_a_forgotten_window_leaves_nothing(server: RedisServer) -> None:
    clock = Clock()

    async def scenario(ledger: Ledger) -> None:
        await ledger.reserve("r1", [GLOBAL], 5, 60)
        clock.now += 10 * 86400
        assert await amounts(ledger, GLOBAL) == (0, 0)
        redis = ledger._store._calls.redis
        assert await redis.exists(KEYS[0], KEYS[2]) == 0

    run(server, scenario, clock=clock)


def test_settle_for_a_forgotten_window_leaves_nothing(server: RedisServer) -> None:
    clock = Clock()

    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", [GLOBAL], 5, 60)
        clock.now += 10 * 86400
        await ledger.state([GLOBAL])
        assert (await settle(ledger, hold, 3)).how == "expired"
        assert await ledger._store._calls.redis.exists(KEYS[0]) == 0

    run(server, scenario, clock=clock)


def test_windows_of_the_scripts_are_the_calendars(server: RedisServer) -> None:
    scopes = [LedgerScope("s", 1, window) for window in ("hour", "day", "month", 1, 900, 7 * 86400)]
    clock = Clock()

    async def main() -> None:
        async with server.client() as redis, opened(redis, clock=clock) as ledger:
            store = ledger._store

            async def check(now: float) -> None:
                clock.now = now
                rows = (await store.state(scopes)).rows
                assert [row[0] for row in rows] == [Window.at(s, now).key for s in scopes]

            for year in (1970, 1999, 2000, 2024, 2025, 2100):
                for month in range(1, 13):
                    begins = datetime(year, month, 1, tzinfo=UTC)
                    for seconds in (-1, 0, 1):
                        if begins.timestamp() + seconds >= 0:
                            await check((begins + timedelta(seconds=seconds)).timestamp())

    asyncio.run(main())


@given(st.integers(0, 4_102_444_800))
@settings(max_examples=200, deadline=None)
def test_window_holds_its_moment(now: int) -> None:
    for window in ("hour", "day", "month", 1, 86400 * 7):
        found = Window.at(LedgerScope("s", 1, window), now)
        assert found.starts_at <= now < found.ends_at
        assert Window.of_key(found.key) == found
        assert Window.at(LedgerScope("s", 1, window), found.ends_at).starts_at == found.ends_at
