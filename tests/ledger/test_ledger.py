"""The ledger while its server is well: reserving, settling, windows, leases."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.ledger.ledger import Ledger
from api.ledger.scripts import KEYS, MARK_MS, WINDOW_KEEP_MS
from api.ledger.types import MAX_AMOUNT, BudgetExhausted, LedgerScope, Window, new_hold_id
from tests.ledger.conftest import NOON, Clock, amounts, opened, run, settle, state_of
from tests.ledger.servers import Server

GLOBAL = LedgerScope("global", 1000)
KEY = LedgerScope("key:k1", 300, "day")
TENANT = LedgerScope("tenant:acme", 5000, "month")
ALL = [GLOBAL, KEY, TENANT]


def test_reserve_then_settle_moves_held_to_spent(server: Server) -> None:
    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", ALL, 200, 60)
        for scope in ALL:
            assert await amounts(ledger, scope) == (0, 200)
        settled = await settle(ledger, hold, 150)
        assert (settled.how, settled.overshoot) == ("held", 0)
        for scope in ALL:
            assert await amounts(ledger, scope) == (150, 0)

    run(server, scenario)


def test_settle_twice_charges_once(server: Server) -> None:
    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", [GLOBAL], 200, 60)
        assert (await settle(ledger, hold, 150)).how == "held"
        assert (await settle(ledger, hold, 170)).how == "again"
        assert (await ledger.release(hold)).how == "again"
        assert await amounts(ledger, GLOBAL) == (150, 0)

    run(server, scenario)


def test_release_frees_everything(server: Server) -> None:
    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", ALL, 200, 60)
        await ledger.release(hold)
        assert (await settle(ledger, hold, 10)).how == "again"
        for scope in ALL:
            assert await amounts(ledger, scope) == (0, 0)

    run(server, scenario)


def test_reserve_refused_by_one_scope_takes_nothing_from_the_others(server: Server) -> None:
    async def scenario(ledger: Ledger) -> None:
        with pytest.raises(BudgetExhausted) as refused:
            await ledger.reserve("r1", ALL, 301, 60)
        assert (refused.value.scope, refused.value.period) == ("key:k1", "day")
        for scope in ALL:
            assert await amounts(ledger, scope) == (0, 0)

    run(server, scenario)


def test_reserve_refused_by_spending_waits_for_the_windows_end(server: Server) -> None:
    async def scenario(ledger: Ledger) -> None:
        await settle(ledger, await ledger.reserve("r1", [GLOBAL], 990, 60), 990)
        with pytest.raises(BudgetExhausted) as refused:
            await ledger.reserve("r2", [GLOBAL, KEY], 11, 60)
        assert (refused.value.scope, refused.value.retry_after_s) == ("global", 3600 - 60)

    run(server, scenario, clock=Clock(NOON + 60))


def test_reserve_refused_by_several_scopes_names_the_longest_wait(server: Server) -> None:
    async def scenario(ledger: Ledger) -> None:
        for scopes, amount in (([GLOBAL], 990), ([KEY], 290)):
            await settle(ledger, await ledger.reserve(f"r{amount}", scopes, amount, 60), amount)
        for scopes in ([KEY, GLOBAL], [GLOBAL, KEY]):
            with pytest.raises(BudgetExhausted) as refused:
                await ledger.reserve("r2", scopes, 11, 60)
            assert (refused.value.scope, refused.value.retry_after_s) == ("key:k1", 12 * 3600)

    run(server, scenario, clock=Clock())


@pytest.mark.parametrize(("lease_s", "retry_after_s"), [(60, 5), (3, 3), (0.2, 1)])
def test_reserve_refused_by_holds_waits_briefly(
    server: Server, lease_s: float, retry_after_s: float
) -> None:
    async def scenario(ledger: Ledger) -> None:
        await ledger.reserve("r1", [GLOBAL], 990, lease_s)
        with pytest.raises(BudgetExhausted) as refused:
            await ledger.reserve("r2", [GLOBAL], 11, 60)
        assert refused.value.retry_after_s == retry_after_s

    run(server, scenario, clock=Clock())


def test_reserve_exactly_what_is_left_passes(server: Server) -> None:
    async def scenario(ledger: Ledger) -> None:
        await ledger.reserve("r1", [GLOBAL], 400, 60)
        await ledger.reserve("r2", [GLOBAL], 600, 60)
        state = await state_of(ledger, GLOBAL)
        assert (state.remaining, state.is_open) == (0, False)  # nothing is spent yet

    run(server, scenario)


def test_lease_ended_is_charged_whole_once(server: Server) -> None:
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
    server: Server, actual: int, overshoot: int
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


def test_settle_above_the_hold_is_charged_and_counted(server: Server) -> None:
    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", [KEY], 200, 60)
        assert (await settle(ledger, hold, 450)).overshoot == 250
        assert (ledger.settlements.overshoots, ledger.settlements.overshoot_amount) == (1, 250)
        state = await state_of(ledger, KEY)
        assert (state.spent, state.remaining, state.is_open) == (450, -150, True)

    run(server, scenario)


def test_settle_in_the_next_window_belongs_to_that_of_the_hold(server: Server) -> None:
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


def test_settle_long_after_changes_nothing(server: Server) -> None:
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


def test_settle_of_a_hold_the_ledger_lost_is_charged_once(server: Server) -> None:
    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", ALL, 200, 60)
        await ledger._store._calls.redis.flushall()
        assert (await settle(ledger, hold, 150)).how == "unknown"
        assert (await settle(ledger, hold, 150)).how == "again"
        for scope in ALL:
            assert await amounts(ledger, scope) == (150, 0)

    run(server, scenario)


def test_ledger_forgets_what_is_over(server: Server) -> None:
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


def test_lease_ended_in_a_forgotten_window_leaves_nothing(server: Server) -> None:
    clock = Clock()

    async def scenario(ledger: Ledger) -> None:
        await ledger.reserve("r1", [GLOBAL], 5, 60)
        clock.now += 10 * 86400
        assert await amounts(ledger, GLOBAL) == (0, 0)
        redis = ledger._store._calls.redis
        assert await redis.exists(KEYS[0], KEYS[2]) == 0

    run(server, scenario, clock=clock)


def test_settle_for_a_forgotten_window_leaves_nothing(server: Server) -> None:
    clock = Clock()

    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", [GLOBAL], 5, 60)
        clock.now += 10 * 86400
        await ledger.state([GLOBAL])
        assert (await settle(ledger, hold, 3)).how == "expired"
        assert await ledger._store._calls.redis.exists(KEYS[0]) == 0

    run(server, scenario, clock=clock)


def test_reserve_many_at_once_never_passes_the_budget(server: Server) -> None:
    scope = LedgerScope("global", 20 * 7 + 6)

    async def scenario(ledger: Ledger) -> None:
        tries = (ledger.reserve(f"r{n}", [scope, TENANT], 7, 60) for n in range(200))
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, BudgetExhausted)]
        assert (len(outcomes) - len(refused), len(refused)) == (20, 180)
        assert await amounts(ledger, scope) == (0, 140)

    run(server, scenario)


def test_amounts_are_exact_up_to_the_bound(server: Server) -> None:
    scope = LedgerScope("global", MAX_AMOUNT)

    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", [scope], MAX_AMOUNT - 1, 60)
        await ledger.reserve("r2", [scope], 1, 60)
        with pytest.raises(BudgetExhausted):
            await ledger.reserve("r3", [scope], 1, 60)
        await settle(ledger, hold, MAX_AMOUNT - 3)
        assert await amounts(ledger, scope) == (MAX_AMOUNT - 3, 1)

    run(server, scenario)


def test_windows_of_the_scripts_are_the_calendars(server: Server) -> None:
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


@pytest.mark.parametrize(
    "scope",
    [("a|b", 1), ("", 1), ("a\nb", 1), ("x" * 129, 1), ("a", -1), ("a", 10**15 + 1), ("a", 1, 0)],
)
def test_scope_out_of_bounds_is_refused(scope: tuple) -> None:
    with pytest.raises(ValueError):
        LedgerScope(*scope)


@pytest.mark.parametrize(
    ("hold_id", "n_scopes", "amount", "lease_s"),
    [
        ("a b", 1, 1, 1), ("", 1, 1, 1), ("x" * 97, 1, 1, 1), ("a", 0, 1, 1), ("a", 17, 1, 1),
        ("a", 1, -1, 1), ("a", 1, 10**15 + 1, 1), ("a", 1, 1, 0), ("a", 1, 1, 7201),
    ],
)  # fmt: skip
def test_reserve_out_of_bounds_is_a_bug(
    server: Server, hold_id: str, n_scopes: int, amount: int, lease_s: float
) -> None:
    async def scenario(ledger: Ledger) -> None:
        with pytest.raises(ValueError):
            await ledger.reserve(hold_id, [GLOBAL] * n_scopes, amount, lease_s)
        assert await amounts(ledger, GLOBAL) == (0, 0)

    run(server, scenario)


def test_hold_id_used_twice_is_a_bug(server: Server) -> None:
    async def scenario(ledger: Ledger) -> None:
        await ledger.reserve("r1", [GLOBAL], 10, 60)
        with pytest.raises(ValueError):
            await ledger.reserve("r1", [GLOBAL], 10, 60)
        assert await amounts(ledger, GLOBAL) == (0, 10)

    run(server, scenario)


def test_new_hold_ids_differ_and_are_valid(server: Server) -> None:
    ids = {new_hold_id("x" * 64) for _ in range(100)}
    assert len(ids) == 100

    async def scenario(ledger: Ledger) -> None:
        await ledger.reserve(ids.pop(), [GLOBAL], 10, 60)

    run(server, scenario)
