import asyncio
import logging
from collections.abc import Sequence

import pytest

from api.ledger.budget_watch import BudgetWatch
from api.ledger.cost_breaker import CostBreaker
from api.ledger.ledger import Ledger
from api.ledger.types import BudgetExhausted, Counts, LedgerDown, LedgerScope, ScopeState, Window
from api.stores.breaker import Breaker
from api.stores.calls import RedisCalls
from tests.ledger.ledgers import NOON, Clock, away, run, settle
from tests.support.servers import RedisServer
from tests.support.waiting import until

BUDGET = LedgerScope("global", 1000)


def state(
    spent: int,
    *,
    at: float = NOON,
    smallest: int = 1,
    scope: LedgerScope = BUDGET,
    reserved: int = 0,
) -> ScopeState:
    return ScopeState.of(scope, Counts(Window.at(scope, at), spent, reserved, smallest), at)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.message.startswith("budget")]


def test_breaker_tells_each_change_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="ragrelay")
    breaker = CostBreaker()
    for spent in (0, 799, 800, 810, 1000, 1000):
        breaker.observe([state(spent)])
    assert told(caplog) == ["budget nearly used up", "budget used up"]
    caplog.clear()
    breaker.observe([state(0, at=NOON + 3600)])
    assert told(caplog) == ["budget has room again"]
    breaker.observe([state(900, at=NOON + 3600)])
    assert (breaker.n_opened, breaker.n_soft) == (1, 2)


def test_breaker_facts_are_in_euros(caplog: pytest.LogCaptureFixture) -> None:
    scope = LedgerScope("global", 5_000_000, 900)
    CostBreaker().observe([state(5_000_000, scope=scope, reserved=30)])
    facts = vars(caplog.records[0])["facts"]
    assert facts == {
        "scope": "global", "window": "900s", "spent_eur": 5.0, "reserved_eur": 0.00003,
        "limit_eur": 5.0, "reset_s": 900,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spent", "smallest", "limit", "is_open"),
    [
        (0, 1, 1000, False), (999, 1, 1000, False), (1000, 1, 1000, True), (990, 10, 1000, False),
        (991, 10, 1000, True), (1200, 1, 1000, True), (0, 1, 0, True),
    ],
)  # fmt: skip
def test_state_is_open_when_the_smallest_does_not_fit(
    spent: int, smallest: int, limit: int, is_open: bool
) -> None:
    assert state(spent, smallest=smallest, scope=LedgerScope("s", limit)).is_open is is_open


def test_breaker_latest_moves_on_with_the_window() -> None:
    clock = Clock(0.0)
    breaker = CostBreaker(clock=clock)
    assert breaker.latest(BUDGET).spent == 0
    breaker.observe([state(1000, at=NOON + 3500)])
    clock.now = 60.0
    assert (breaker.latest(BUDGET).is_open, breaker.latest(BUDGET).reset_s) == (True, 40.0)
    clock.now = 130.0
    moved_on = breaker.latest(BUDGET)
    assert (moved_on.is_open, moved_on.spent, moved_on.remaining) == (False, 0, 1000)
    assert (moved_on.starts_at, moved_on.reset_s) == (NOON + 3600, 3570.0)


def test_breaker_keeps_the_scopes_seen_last() -> None:
    breaker = CostBreaker(max_scopes=2)
    scopes = [LedgerScope(f"key:{n}", 10) for n in range(3)]
    breaker.observe([state(5, scope=scope) for scope in scopes])
    assert [breaker.latest(scope).spent for scope in scopes] == [0, 5, 5]


def test_breaker_opens_and_closes_with_the_ledger(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="ragrelay")
    clock = Clock()

    async def scenario(ledger: Ledger) -> None:
        watch = BudgetWatch(ledger, [BUDGET], every_s=60)
        await settle(ledger, await ledger.reserve("r1", [BUDGET], 700, 60), 700)
        await ledger.reserve("big", [BUDGET], 300, 60)
        with pytest.raises(BudgetExhausted):
            await ledger.reserve("r2", [BUDGET], 300, 60)
        assert not watch.states[0].is_open  # a hold is in the way, not what is spent
        clock.now += 61
        with pytest.raises(BudgetExhausted) as refused:
            await ledger.reserve("r3", [BUDGET], 300, 60)
        assert watch.states[0].is_open  # known from the refusal, without a trip
        assert refused.value.retry_after_s == 3600 - 61
        clock.now = NOON + 3600
        assert not watch.states[0].is_open
        await ledger.reserve("r4", [BUDGET], 300, 60)

    run(server, scenario, clock=clock, breaker=CostBreaker(clock=clock))
    expected = ["budget nearly used up", "budget used up", "budget has room again"]
    assert sorted(told(caplog)) == sorted(expected)


def test_breaker_is_not_opened_by_an_amount_above_the_limit(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        with pytest.raises(BudgetExhausted):
            await ledger.reserve("r1", [BUDGET], 1001, 60)
        assert not ledger.breaker.latest(BUDGET).is_open
        await ledger.reserve("r2", [BUDGET], 1000, 60)

    run(server, scenario)


def test_watch_sees_what_others_spend_and_survives_an_outage(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        redis = ledger._store._calls.redis
        calls = RedisCalls(redis, Breaker("other", open_s=0.0), timeout_s=5.0)
        other = Ledger(calls, fail_mode="closed")
        watch = BudgetWatch(ledger, [BUDGET], every_s=0.01)
        watch.start()
        await other.reserve("r1", [BUDGET], 100, 60)
        await until(lambda: watch.states[0].reserved == 100)
        with away(server, "freeze", ledger):
            await until(lambda: ledger.is_down)
            with pytest.raises(LedgerDown):
                await ledger.state([BUDGET])
            assert watch.states[0].reserved == 100
        await other.reserve("r2", [BUDGET], 100, 60)
        await until(lambda: watch.states[0].reserved == 200)
        await watch.close()

    run(server, scenario)


class Reporter(Ledger):
    """A ledger on a server that evicts, or one with a bug."""

    def __init__(self, error: Exception | None = None) -> None:
        self.breaker = CostBreaker()
        self.n_asked = 0
        self._error = error

    async def state(self, scopes: Sequence[LedgerScope]) -> list[ScopeState]:
        self.n_asked += 1
        if self._error is not None:
            raise self._error
        return []

    async def evicts(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("error", "messages"),
    [
        (None, ["ledger may be evicted: its server needs maxmemory-policy noeviction"]),
        (LedgerDown("down"), []),
    ],
)
def test_watch_warns_once_of_a_server_that_evicts(
    caplog: pytest.LogCaptureFixture, error: Exception | None, messages: list[str]
) -> None:
    asyncio.run(watch_for_a_while(Reporter(error)))
    assert [record.message for record in caplog.records] == messages


def test_watch_survives_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    asyncio.run(watch_for_a_while(Reporter(KeyError("a bug"))))
    assert "budget watch failed" in [record.message for record in caplog.records]


async def watch_for_a_while(reporter: Reporter) -> None:
    watch = BudgetWatch(reporter, [BUDGET], every_s=0.001)
    watch.start()
    await until(lambda: reporter.n_asked > 3)
    await watch.close()
