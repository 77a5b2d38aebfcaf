"""Count wrong API keys by address, and block an address that guesses.

A right key costs nothing. An address with too many wrong ones is told so without a look at its
guesses, for as long as its bucket takes to leak one. That costs no trip: this process remembers
whom it has blocked.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

from api.admission.counting import Counting
from api.admission.gcra import Allowance, Bucket
from api.admission.trip import TAG
from api.errors import RateLimited
from api.stores.calls import RedisCalls

PER_MINUTE = 10
MAX_BLOCKED = 10_000


class Failures:
    """The addresses that sent wrong keys."""

    def __init__(
        self,
        calls: RedisCalls,
        *,
        per_minute: int = PER_MINUTE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counting = Counting(calls, "wrong keys", clock=clock)
        self._per_minute = per_minute
        self._clock = clock
        self._blocked: OrderedDict[str, float] = OrderedDict()

    @property
    def is_local(self) -> bool:
        """Whether wrong keys are counted in this process alone."""
        return bool(self._counting.trouble)

    def blocks_anyone(self) -> bool:
        now = self._clock()
        while self._blocked and next(iter(self._blocked.values())) <= now:
            self._blocked.popitem(last=False)
        return bool(self._blocked)

    def refuse_blocked(self, client: str) -> None:
        """Raises RateLimited for an address that is blocked."""
        until = self._blocked.get(client)
        if until is None:
            return
        if until > self._clock():
            raise _refusal(until - self._clock())
        del self._blocked[client]

    async def count(self, client: str) -> None:
        """Count a wrong key. Raises RateLimited for one too many."""
        self.refuse_blocked(client)
        bucket = Bucket(f"{TAG}:wrong-key:{client}", self._per_minute, 1)
        taken = await self._counting.take([bucket])
        if taken is not None and taken.writes != "refused":
            passed, levels = taken.passed, taken.levels
        else:
            passed, levels = self._counting.take_here([bucket])
        if passed:
            return
        wait_s = Allowance.of(bucket, levels[0], passed=False).retry_after_s
        self._blocked[client] = self._clock() + wait_s
        self._blocked.move_to_end(client)
        if len(self._blocked) > MAX_BLOCKED:
            self._blocked.popitem(last=False)
        raise _refusal(wait_s)


def _refusal(wait_s: float) -> RateLimited:
    return RateLimited("too many wrong keys from this address", retry_after_s=wait_s)
