"""Budgets: reserve what an answer costs at most before it is made, settle once what it did cost.

`Ledger` decides what an outage of its Redis means: `closed` refuses every answer, `open` counts
in this process alone (`local.py`). The arithmetic is Lua in `scripts.py`; `settlements.py`
delivers what was spent.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Literal

from api.ledger.cost_breaker import CostBreaker
from api.ledger.local import Book
from api.ledger.scripts import MARK_MS
from api.ledger.settlements import MAX_WAITING, RETRY_S, Outcome, Settlements
from api.ledger.store import Clock, LedgerStore, ReserveReply, counts_of
from api.ledger.types import (
    HOLD_ID,
    MAX_AMOUNT,
    MAX_LEASE_S,
    MAX_SCOPES,
    MIN_RETRY_S,
    BudgetExhausted,
    Counts,
    Hold,
    LedgerDown,
    LedgerScope,
    ScopeState,
    Settlement,
)
from api.stores.calls import RedisCalls

FailMode = Literal["closed", "open"]


class Ledger:
    """Reserves, settles and reports budgets.

    `clock` None takes the server's time for the ledger and ours for the book: tests give one.
    """

    def __init__(
        self,
        calls: RedisCalls,
        *,
        fail_mode: FailMode,
        breaker: CostBreaker | None = None,
        clock: Clock | None = None,
        max_waiting: int = MAX_WAITING,
        retry_s: float = RETRY_S,
    ) -> None:
        self.fail_mode = fail_mode
        self.breaker = breaker or CostBreaker()
        self.book = Book(clock or time.time)
        self._store = LedgerStore(calls, clock=clock)
        self.settlements = Settlements(
            self._store, self.book, max_waiting=max_waiting, retry_s=retry_s
        )

    @property
    def is_down(self) -> bool:
        """Whether the last call to the ledger failed."""
        return self._store.is_down

    @property
    def is_open_mode(self) -> bool:
        """Whether this process counts for itself, because the ledger is down."""
        return self.fail_mode == "open" and self.is_down

    def start(self) -> None:
        self.settlements.start()

    async def evicts(self) -> bool:
        """Whether the server may throw the ledger away when it is full. Raises LedgerDown."""
        return await self._store.policy() not in ("noeviction", "")

    async def close(self, deadline_s: float) -> None:
        """Deliver every settlement and the book, as far as the deadline allows."""
        await self.settlements.close(deadline_s)

    async def reserve(
        self, hold_id: str, scopes: Sequence[LedgerScope], amount: int, lease_s: float
    ) -> Hold:
        """Put `amount` aside in every scope, or in none.

        A hold that nobody settles is charged whole when its lease ends. Raises BudgetExhausted,
        LedgerDown.
        """
        _check(hold_id, scopes, amount, lease_s)
        try:
            reply = await self._store.reserve(hold_id, scopes, amount, lease_s)
        except LedgerDown as down:
            if down.may_hold:
                self._forget(hold_id)
            if self.fail_mode == "closed":
                raise
            return self._reserve_locally(hold_id, scopes, amount, lease_s)
        except asyncio.CancelledError:
            self._forget(hold_id)
            raise
        return self._held(reply, hold_id, scopes, amount)

    def settle_soon(self, hold: Hold, actual: int) -> Outcome:
        """Charge what was used and free the rest, once however often it is called.

        In the background: it is sent until the ledger has taken it, awaited or not.
        """
        if not 0 <= actual <= MAX_AMOUNT:
            raise ValueError(f"{actual} micro-EUR are not within 0..{MAX_AMOUNT}. This is a bug.")
        if hold.is_local:
            return self.settlements.enter(self.book.settle(hold, actual))
        return self.settlements.add(Settlement(hold.id, actual, hold.forget_at_ms, hold.windows))

    async def state(self, scopes: Sequence[LedgerScope]) -> list[ScopeState]:
        """The budgets as they stand, of this process alone in open mode. Raises LedgerDown."""
        try:
            reply = await self._store.state(scopes)
        except LedgerDown:
            if self.fail_mode == "closed":
                raise
            return self._observe(self.book.states(scopes))
        return self._note(scopes, counts_of(reply.rows), reply.now_ms)

    def _held(
        self, reply: ReserveReply, hold_id: str, scopes: Sequence[LedgerScope], amount: int
    ) -> Hold:
        if reply.how == "known":
            raise ValueError(f"hold {hold_id} is there already. This is a bug.")
        counts = counts_of(reply.rows)
        self._note(scopes, counts, reply.now_ms)
        if reply.how == "refused":
            scope = scopes[reply.refused_by - 1]
            retry_after_s = max(MIN_RETRY_S, reply.retry_ms / 1000)
            raise BudgetExhausted(scope.name, scope.label, retry_after_s)
        windows = tuple(entry.window for entry in counts)
        return Hold(hold_id, amount, windows, reply.lease_ends_ms + MARK_MS)

    def _reserve_locally(
        self, hold_id: str, scopes: Sequence[LedgerScope], amount: int, lease_s: float
    ) -> Hold:
        try:
            return self.book.reserve(hold_id, scopes, amount, lease_s)
        finally:
            self._observe(self.book.states(scopes))

    def _forget(self, hold_id: str) -> None:
        """Undo a reservation that may have been made: also one that the server makes later."""
        self.settlements.add(Settlement(hold_id, 0, 0, ()))

    def _note(
        self, scopes: Sequence[LedgerScope], counts: Sequence[Counts], now_ms: int
    ) -> list[ScopeState]:
        self.book.note(counts)
        return self._observe(
            [
                ScopeState.of(scope, entry, now_ms / 1000)
                for scope, entry in zip(scopes, counts, strict=True)
            ]
        )

    def _observe(self, states: list[ScopeState]) -> list[ScopeState]:
        self.breaker.observe(states)
        return states


def _check(hold_id: str, scopes: Sequence[LedgerScope], amount: int, lease_s: float) -> None:
    if not HOLD_ID.fullmatch(hold_id):
        raise ValueError(f"hold id is not {HOLD_ID.pattern}. This is a bug.")
    if not 1 <= len(scopes) <= MAX_SCOPES:
        raise ValueError(f"{len(scopes)} scopes are not within 1..{MAX_SCOPES}. This is a bug.")
    if not 0 <= amount <= MAX_AMOUNT:
        raise ValueError(f"{amount} micro-EUR are not within 0..{MAX_AMOUNT}. This is a bug.")
    if not 0 < lease_s <= MAX_LEASE_S:
        raise ValueError(f"a lease of {lease_s} s is not within 0..{MAX_LEASE_S}. This is a bug.")
