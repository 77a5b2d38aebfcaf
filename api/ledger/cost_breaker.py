"""The cost circuit breaker: open while a budget has no room left, closed when its window moves on.

It counts nothing itself: it compares the states that the ledger reports and logs what changed.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from api.ledger.types import Counts, LedgerScope, ScopeState, Window
from api.logs import logger

SOFT_SHARE = 0.8
MAX_SCOPES = 1000
"""Scopes whose last state is kept; one that comes back after being pushed out may log again."""


class CostBreaker:
    """Remembers the last state of each budget. `clock` counts seconds, from anywhere."""

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


def _facts(state: ScopeState) -> dict[str, object]:
    return {
        "scope": state.scope,
        "window": state.window,
        "spent_eur": state.spent / 1e6,
        "reserved_eur": state.reserved / 1e6,
        "limit_eur": state.limit / 1e6,
        "reset_s": round(state.reset_s),
    }
