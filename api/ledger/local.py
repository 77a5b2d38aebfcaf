"""Budgets counted in this process alone, while the ledger is down and its fail mode is open.

The limits hold per process, on top of what the ledger last said was spent. What was spent is
folded into the ledger when it is back: as settlements with ids of their own, so that one sent
twice is charged once. The book dies with its process; the ledger's leases cover the rest.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from uuid import uuid4

import msgspec

from api.ledger.scripts import HOLDS_RETRY_MS, WINDOW_KEEP_MS
from api.ledger.types import (
    MIN_RETRY_S,
    BudgetExhausted,
    Counts,
    Hold,
    LedgerDown,
    LedgerScope,
    ScopeState,
    Settled,
    Settlement,
    Window,
)

MAX_HOLDS = 10_000
MAX_CHARGES = 10_000
MAX_WINDOWS = 10_000


class Page(msgspec.Struct):
    """What is counted of one window; amounts in micro-EUR."""

    known: int = 0
    """Spent, as the ledger last said."""
    spent: int = 0
    """Spent here and not folded yet."""
    reserved: int = 0
    smallest: int | None = None

    @property
    def is_idle(self) -> bool:
        return not self.spent and not self.reserved


class Held(msgspec.Struct, frozen=True):
    hold: Hold
    lease_ends_at: float


class Book:
    """Holds and spending of this process that the ledger does not know of."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._held: dict[str, Held] = {}
        self._pages: dict[Window, Page] = {}
        self._charged: dict[tuple[Window, ...], int] = {}
        self._folding: list[Settlement] = []

    @property
    def unfolded(self) -> int:
        """micro-EUR that were spent here and that the ledger does not know of."""
        return sum(self._charged.values()) + sum(fold.actual for fold in self._folding)

    @property
    def has_unfolded(self) -> bool:
        return bool(self._charged or self._folding)

    def note(self, counts: Iterable[Counts]) -> None:
        """Remember what the ledger says is spent."""
        self._end_leases(self._clock())
        for entry in counts:
            self._page(entry.window).known = entry.spent

    def reserve(
        self, hold_id: str, scopes: Sequence[LedgerScope], amount: int, lease_s: float
    ) -> Hold:
        """Raises BudgetExhausted; LedgerDown when the book is full."""
        now = self._clock()
        self._end_leases(now)
        if len(self._held) >= MAX_HOLDS or len(self._charged) >= MAX_CHARGES:
            raise LedgerDown("the ledger is down, and the book of this process is full")
        windows = tuple(Window.at(scope, now) for scope in scopes)
        refusals = [
            (wait_s, scope)
            for scope, window in zip(scopes, windows, strict=True)
            if (wait_s := self._wait_s(scope, window, amount, now)) > 0
        ]
        if refusals:
            wait_s, scope = max(refusals, key=lambda refusal: refusal[0])
            raise BudgetExhausted(scope.name, scope.label, max(MIN_RETRY_S, wait_s))
        hold = Hold(hold_id, amount, windows, forget_at_ms=0, is_local=True)
        self._held[hold_id] = Held(hold, now + lease_s)
        for window in windows:
            self._page(window).reserved += amount
        return hold

    def settle(self, hold: Hold, actual: int) -> Settled:
        """Charge what was spent and free the rest; a second time changes nothing."""
        if self._held.pop(hold.id, None) is None:
            return Settled("again", 0)
        for window in hold.windows:
            page = self._page(window)
            page.reserved -= hold.amount
            page.spent += actual
        if actual:
            self._charged[hold.windows] = self._charged.get(hold.windows, 0) + actual
        return Settled("held", max(0, actual - hold.amount))

    def states(self, scopes: Sequence[LedgerScope]) -> list[ScopeState]:
        now = self._clock()
        self._end_leases(now)
        return [ScopeState.of(scope, self._counts(Window.at(scope, now)), now) for scope in scopes]

    def freeze(self, n: int) -> list[Settlement]:
        """The next `n` charges to fold, the same ones until `folded` is called."""
        if not self._folding:
            for windows in list(self._charged)[:n]:
                # Once its windows are over, a charge changes nothing: until then it is remembered.
                forget_at_ms = max(w.ends_at for w in windows) * 1000 + WINDOW_KEEP_MS
                actual = self._charged.pop(windows)
                fold = Settlement(f"fold.{uuid4().hex}", actual, forget_at_ms, windows)
                self._folding.append(fold)
        return self._folding

    def folded(self) -> None:
        """The ledger has taken the frozen charges."""
        for fold in self._folding:
            for window in fold.windows:
                page = self._page(window)
                page.known += fold.actual
                page.spent -= fold.actual
        self._folding = []

    def _wait_s(self, scope: LedgerScope, window: Window, amount: int, now: float) -> float:
        """Seconds until the amount may fit; 0 if it does."""
        page = self._page(window)
        asked = max(1, amount)
        if amount <= scope.limit:
            page.smallest = min(page.smallest or asked, asked)
        spent = page.known + page.spent
        if spent + amount > scope.limit:
            return window.ends_at - now
        if spent + page.reserved + amount > scope.limit:
            return min(window.ends_at - now, HOLDS_RETRY_MS / 1000)
        return 0.0

    def _counts(self, window: Window) -> Counts:
        page = self._pages.get(window) or Page()
        return Counts(window, page.known + page.spent, page.reserved, page.smallest or 1)

    def _page(self, window: Window) -> Page:
        page = self._pages.pop(window, None) or Page()
        self._pages[window] = page  # the oldest first
        if len(self._pages) > MAX_WINDOWS:
            oldest = next(iter(self._pages))
            if self._pages[oldest].is_idle:
                del self._pages[oldest]
        return page

    def _end_leases(self, now: float) -> None:
        """A hold that was never settled is charged whole, as the ledger does."""
        ended = [held.hold for held in self._held.values() if held.lease_ends_at <= now]
        for hold in ended:
            self.settle(hold, hold.amount)
