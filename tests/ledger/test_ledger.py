"""The ledger while its server is well: reserving, settling, refusing."""

import asyncio

import pytest

from api.ledger.ledger import Ledger
from api.ledger.types import MAX_AMOUNT, BudgetExhausted, LedgerScope, new_hold_id
from tests.ledger.ledgers import (
    ALL,
    GLOBAL,
    KEY,
    NOON,
    TENANT,
    Clock,
    amounts,
    run,
    settle,
    state_of,
)
from tests.support.servers import RedisServer


def test_reserve_then_settle_moves_held_to_spent(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", ALL, 200, 60)
        for scope in ALL:
            assert await amounts(ledger, scope) == (0, 200)
        settled = await settle(ledger, hold, 150)
        assert (settled.how, settled.overshoot) == ("held", 0)
        for scope in ALL:
            assert await amounts(ledger, scope) == (150, 0)

    run(server, scenario)


def test_settle_twice_charges_once(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", [GLOBAL], 200, 60)
        assert (await settle(ledger, hold, 150)).how == "held"
        assert (await settle(ledger, hold, 170)).how == "again"
        assert (await settle(ledger, hold, 0)).how == "again"
        assert await amounts(ledger, GLOBAL) == (150, 0)

    run(server, scenario)


def test_release_frees_everything(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", ALL, 200, 60)
        await settle(ledger, hold, 0)
        assert (await settle(ledger, hold, 10)).how == "again"
        for scope in ALL:
            assert await amounts(ledger, scope) == (0, 0)

    run(server, scenario)


def test_reserve_refused_by_one_scope_takes_nothing_from_the_others(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        with pytest.raises(BudgetExhausted) as refused:
            await ledger.reserve("r1", ALL, 301, 60)
        assert (refused.value.scope, refused.value.period) == ("key:k1", "day")
        for scope in ALL:
            assert await amounts(ledger, scope) == (0, 0)

    run(server, scenario)


def test_reserve_refused_by_spending_waits_for_the_windows_end(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        await settle(ledger, await ledger.reserve("r1", [GLOBAL], 990, 60), 990)
        with pytest.raises(BudgetExhausted) as refused:
            await ledger.reserve("r2", [GLOBAL, KEY], 11, 60)
        assert (refused.value.scope, refused.value.retry_after_s) == ("global", 3600 - 60)

    run(server, scenario, clock=Clock(NOON + 60))


def test_reserve_refused_by_several_scopes_names_the_longest_wait(server: RedisServer) -> None:
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
    server: RedisServer, lease_s: float, retry_after_s: float
) -> None:
    async def scenario(ledger: Ledger) -> None:
        await ledger.reserve("r1", [GLOBAL], 990, lease_s)
        with pytest.raises(BudgetExhausted) as refused:
            await ledger.reserve("r2", [GLOBAL], 11, 60)
        assert refused.value.retry_after_s == retry_after_s

    run(server, scenario, clock=Clock())


def test_reserve_exactly_what_is_left_passes(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        await ledger.reserve("r1", [GLOBAL], 400, 60)
        await ledger.reserve("r2", [GLOBAL], 600, 60)
        state = await state_of(ledger, GLOBAL)
        assert (state.remaining, state.is_open) == (0, False)  # nothing is spent yet

    run(server, scenario)


def test_settle_above_the_hold_is_charged_and_counted(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", [KEY], 200, 60)
        assert (await settle(ledger, hold, 450)).overshoot == 250
        assert ledger.settlements.overshoots == 1
        state = await state_of(ledger, KEY)
        assert (state.spent, state.remaining, state.is_open) == (450, -150, True)

    run(server, scenario)


def test_settle_of_a_hold_the_ledger_lost_is_charged_once(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", ALL, 200, 60)
        await ledger._store._calls.redis.flushall()
        assert (await settle(ledger, hold, 150)).how == "unknown"
        assert (await settle(ledger, hold, 150)).how == "again"
        for scope in ALL:
            assert await amounts(ledger, scope) == (150, 0)

    run(server, scenario)


def test_reserve_many_at_once_never_passes_the_budget(server: RedisServer) -> None:
    scope = LedgerScope("global", 20 * 7 + 6)

    async def scenario(ledger: Ledger) -> None:
        tries = (ledger.reserve(f"r{n}", [scope, TENANT], 7, 60) for n in range(200))
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, BudgetExhausted)]
        assert (len(outcomes) - len(refused), len(refused)) == (20, 180)
        assert await amounts(ledger, scope) == (0, 140)

    run(server, scenario)


def test_amounts_are_exact_up_to_the_bound(server: RedisServer) -> None:
    scope = LedgerScope("global", MAX_AMOUNT)

    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", [scope], MAX_AMOUNT - 1, 60)
        await ledger.reserve("r2", [scope], 1, 60)
        with pytest.raises(BudgetExhausted):
            await ledger.reserve("r3", [scope], 1, 60)
        await settle(ledger, hold, MAX_AMOUNT - 3)
        assert await amounts(ledger, scope) == (MAX_AMOUNT - 3, 1)

    run(server, scenario)


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
    server: RedisServer, hold_id: str, n_scopes: int, amount: int, lease_s: float
) -> None:
    async def scenario(ledger: Ledger) -> None:
        with pytest.raises(ValueError):
            await ledger.reserve(hold_id, [GLOBAL] * n_scopes, amount, lease_s)
        assert await amounts(ledger, GLOBAL) == (0, 0)

    run(server, scenario)


def test_hold_id_used_twice_is_a_bug(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        await ledger.reserve("r1", [GLOBAL], 10, 60)
        with pytest.raises(ValueError):
            await ledger.reserve("r1", [GLOBAL], 10, 60)
        assert await amounts(ledger, GLOBAL) == (0, 10)

    run(server, scenario)


def test_new_hold_ids_differ_and_are_valid(server: RedisServer) -> None:
    ids = {new_hold_id("x" * 64) for _ in range(100)}
    assert len(ids) == 100

    async def scenario(ledger: Ledger) -> None:
        await ledger.reserve(ids.pop(), [GLOBAL], 10, 60)

    run(server, scenario)
