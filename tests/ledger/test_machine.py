"""Any order of reserving, settling, waiting and failing, against a slow obvious model."""

import asyncio

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from api.ledger.cost_breaker import CostBreaker
from api.ledger.ledger import Ledger
from api.ledger.scripts import KEYS
from api.ledger.types import BudgetExhausted, LedgerScope, Window
from api.stores.breaker import Breaker
from api.stores.calls import RedisCalls
from tests.ledger.ledgers import Clock, delivered, settle
from tests.ledger.lossy import Lossy, Mode
from tests.ledger.model import KEEP_S, Entry, Model
from tests.support.servers import RedisServer
from tests.support.waiting import until

SCOPES = [
    LedgerScope("global", 1000, 900),
    LedgerScope("key:k", 700, "hour"),
    LedgerScope("key:k", 1500, "day"),
    LedgerScope("tenant:t", 2500, "month"),
]
LONGEST_OUTAGE_S = 300


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self.model = Model()
        self.clock = Clock()
        self.outage_s = 0.0
        self.n_holds = 0
        self.loop = asyncio.Runner()
        self.loop.run(self.open(server))

    async def open(self, server: RedisServer) -> None:
        self.redis = server.client()
        await self.redis.flushall()
        await self.redis.config_set("appendfsync", "no")  # what is asked here is arithmetic
        self.lossy = Lossy(self.redis)
        self.ledger = Ledger(
            RedisCalls(self.lossy, Breaker("redis_ledger", open_s=0.0), timeout_s=5.0),
            fail_mode="open",
            breaker=CostBreaker(clock=self.clock),
            clock=self.clock,
            retry_s=0.001,
        )
        self.ledger.start()

    def teardown(self) -> None:
        async def close() -> None:
            await self.ledger.close(5)
            await self.redis.aclose()

        self.lossy.mode = "well"
        self.loop.run(close())
        self.loop.close()

    @property
    def is_well(self) -> bool:
        return self.lossy.mode == "well"

    @rule(
        amount=st.integers(0, 800),
        scopes=st.sets(st.sampled_from(range(4)), min_size=1),
        lease_s=st.sampled_from([1, 60, 1200, 3600]),
    )
    def reserve(self, amount: int, scopes: set[int], lease_s: int) -> None:
        chosen = [SCOPES[n] for n in sorted(scopes)]
        self.n_holds += 1
        if self.is_well:
            self.model.sweep(self.clock.now)
            wait_s, refusing = self.model.refusal(chosen, amount, self.clock.now)
        else:
            states = self.loop.run(self.ledger.state(chosen))
            wait_s = float(any(amount > state.remaining for state in states))
        try:
            hold = self.loop.run(self.ledger.reserve(f"h{self.n_holds}", chosen, amount, lease_s))
        except BudgetExhausted as refused:
            assert wait_s > 0
            if self.is_well:
                told = (refused.scope, refused.retry_after_s)
                assert told == (refusing, pytest.approx(max(1.0, wait_s), abs=0.002))
        else:
            assert wait_s == 0
            assert hold.is_local is not self.is_well
            self.model.reserve(hold, self.clock.now + lease_s)

    @precondition(lambda self: self.model.entries)
    @rule(n=st.integers(0, 1000), share=st.sampled_from([0.0, 0.3, 1.0, 1.0, 1.5]))
    def settle_one(self, n: int, share: float) -> None:
        entry = list(self.model.entries.values())[n % len(self.model.entries)]
        self.settle(entry, round(entry.hold.amount * share))

    def settle(self, entry: Entry, actual: int) -> None:
        now = self.clock.now
        if not self.is_well and not entry.hold.is_local:
            if entry.state != "settled" and entry.is_surely_known(now + LONGEST_OUTAGE_S):
                self.loop.run(self.enqueue(entry, actual))
                self.model.settle(entry, actual)
            return
        how = self.loop.run(settle(self.ledger, entry.hold, actual)).how
        self.loop.run(self.tried())
        if entry.state == "settled":
            assert how in ("again", "late")
        elif entry.hold.is_local:
            self.model.settle(entry, actual if how == "held" else entry.hold.amount)
        elif how == "late":
            assert not entry.is_surely_known(now)
        else:
            assert how == entry.state or (how == "expired" and entry.lease_ends_at <= now)
            assert not entry.is_surely_forgotten(now - 1)
            self.model.settle(entry, actual)

    async def enqueue(self, entry: Entry, actual: int) -> None:
        self.ledger.settle_soon(entry.hold, actual)
        await self.tried()

    async def tried(self) -> None:
        """What is to be delivered has reached the server, where only the answers are lost."""
        has_work = self.ledger.settlements.n_waiting or self.ledger.book.unfolded
        if self.lossy.mode == "deaf" and has_work:
            n_lost = self.lossy.n_lost
            await until(lambda: self.lossy.n_lost > n_lost)

    @precondition(lambda self: self.is_well)
    @rule(seconds=st.sampled_from([0.5, 59, 100, 601, 900, 3600, 86_400, 20 * 86_400]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: not self.is_well and self.outage_s + 60 <= LONGEST_OUTAGE_S)
    @rule()
    def wait_in_outage(self) -> None:
        self.clock.now += 60
        self.outage_s += 60

    @rule(mode=st.sampled_from(["down", "deaf"]))
    def fail(self, mode: Mode) -> None:
        self.lossy.mode = mode

    @precondition(lambda self: not self.is_well)
    @rule()
    def recover(self) -> None:
        self.lossy.mode = "well"
        self.outage_s = 0.0
        for entry in list(self.model.entries.values()):
            if entry.hold.is_local and entry.lease_ends_at <= self.clock.now:
                self.settle(entry, entry.hold.amount)
        self.loop.run(delivered(self.ledger))

    @precondition(lambda self: self.is_well)
    @invariant()
    def ledger_is_the_model(self) -> None:
        now = self.clock.now
        for entry in list(self.model.entries.values()):
            if entry.hold.is_local and entry.lease_ends_at <= now:
                self.settle(entry, entry.hold.amount)
        self.loop.run(delivered(self.ledger))
        states = self.loop.run(self.ledger.state(SCOPES))
        self.model.sweep(now)
        counted = self.loop.run(self.counted())
        for window in self.model.spent:
            if window.ends_at + KEEP_S > now:
                expected = (self.model.spent[window], self.model.reserved[window])
                assert counted.pop(window, (0, 0)) == expected, window
        assert not any(any(amounts) for amounts in counted.values())
        for scope, state in zip(SCOPES, states, strict=True):
            window = Window.at(scope, now)
            assert min(state.spent, state.reserved) >= 0
            assert state.remaining == scope.limit - state.spent - state.reserved
            assert state.remaining >= 0 or window in self.model.loose
            assert state.is_open == (state.spent + state.smallest > scope.limit)
            assert self.ledger.breaker.latest(scope) == state

    @precondition(lambda self: self.is_well)
    @invariant()
    def no_hold_outlives_its_lease(self) -> None:
        now_ms = round(self.clock.now * 1000)
        assert self.loop.run(self.redis.zcount(KEYS[2], "-inf", now_ms)) == 0

    async def counted(self) -> dict[Window, tuple[int, int]]:
        texts = await self.redis.hgetall(KEYS[0])
        amounts = {Window.of_key(key.decode()): text.split() for key, text in texts.items()}
        return {window: (int(spent), int(held)) for window, (spent, held, _) in amounts.items()}


def test_ledger_is_its_model_in_any_order(server: RedisServer) -> None:
    run_state_machine_as_test(
        lambda: LedgerMachine(server),  # type: ignore[arg-type]
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
