"""The cost circuit breaker: open while a budget has no room left, closed when its window moves on.

It holds no truth of its own: `CostBreaker` compares the states that the ledger reports and says
what changed; `BudgetWatch` has the ledger report while nobody asks.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from api.ledger.types import Counts, LedgerDown, LedgerScope, ScopeState, Window
from api.logs import logger

SOFT_SHARE = 0.8
MAX_SCOPES = 1000
"""Scopes whose last state is kept; one that comes back after being pushed out may log again."""
WATCH_S = 5.0


class CostBreaker:
    """`clock` counts seconds, from anywhere."""

    def __init__(
        self,
        *,
        soft_share: float = SOFT_SHARE,
        max_scopes: int = MAX_SCOPES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.n_opened = 0
        self.n_soft = 0
        """Windows in which the soft share was reached."""
        self._soft_share = soft_share
        self._max_scopes = max_scopes
        self._clock = clock
        self._last: OrderedDict[tuple[str, str], tuple[ScopeState, float]] = OrderedDict()

    def observe(self, states: Iterable[ScopeState]) -> None:
        """Take the states as they are now; log what changed."""
        for state in states:
            last = self._last.pop((state.scope, state.window), None)
            self._last[(state.scope, state.window)] = (state, self._clock())
            self._tell(state, None if last is None else last[0])
        while len(self._last) > self._max_scopes:
            self._last.popitem(last=False)

    def latest(self, scope: LedgerScope) -> ScopeState:
        """The last state that was seen, or the empty one of the window that follows it."""
        last = self._last.get((scope.name, scope.label))
        if last is None:
            now_s = time.time()
            return ScopeState.of(scope, Counts(Window.at(scope, now_s)), now_s)
        state, seen_at = last
        return state.after(self._clock() - seen_at)

    def _tell(self, state: ScopeState, last: ScopeState | None) -> None:
        was_open = last is not None and last.is_open
        if state.is_open and not was_open:
            self.n_opened += 1
            logger.warning("budget used up", extra={"facts": _facts(state)})
        elif was_open and not state.is_open:
            logger.info("budget has room again", extra={"facts": _facts(state)})
        is_told = last is not None and last.starts_at == state.starts_at and self._is_soft(last)
        if self._is_soft(state) and not is_told:
            self.n_soft += 1
            logger.warning("budget nearly used up", extra={"facts": _facts(state)})

    def _is_soft(self, state: ScopeState) -> bool:
        return state.spent >= self._soft_share * state.limit > 0


class Reporting(Protocol):
    """What is watched: a Ledger."""

    @property
    def breaker(self) -> CostBreaker: ...
    async def state(self, scopes: Sequence[LedgerScope]) -> list[ScopeState]: ...
    async def evicts(self) -> bool: ...


class BudgetWatch:
    """Keeps the states of a few scopes fresh, so that they can be read without a trip.

    Every reservation, granted or refused, brings them up to date as well.
    """

    def __init__(
        self,
        ledger: Reporting,
        scopes: Sequence[LedgerScope],
        *,
        every_s: float = WATCH_S,
    ) -> None:
        self._ledger = ledger
        self._scopes = scopes
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    @property
    def states(self) -> list[ScopeState]:
        return [self._ledger.breaker.latest(scope) for scope in self._scopes]

    @property
    def is_open(self) -> bool:
        return any(state.is_open for state in self.states)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="budget watch")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        is_checked = False
        while True:
            try:
                await self._ledger.state(self._scopes)
                if not is_checked:
                    await self._check_server()
                    is_checked = True
            except LedgerDown:
                pass  # the store has said so
            except Exception:  # a bug must not end the watch
                logger.exception("budget watch failed")
            await asyncio.sleep(self._every_s)

    async def _check_server(self) -> None:
        if await self._ledger.evicts():
            logger.warning("ledger may be evicted: its server needs maxmemory-policy noeviction")


def _facts(state: ScopeState) -> dict[str, object]:
    return {
        "scope": state.scope,
        "window": state.window,
        "spent_eur": state.spent / 1e6,
        "reserved_eur": state.reserved / 1e6,
        "limit_eur": state.limit / 1e6,
        "reset_s": round(state.reset_s),
    }
