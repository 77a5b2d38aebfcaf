"""Count requests in Redis, or in this process alone while Redis is down.

Each change from one to the other is a line in the log, and `trouble` says why.
"""

import time
from collections.abc import Callable, Sequence

from api.admission.gcra import Bucket, LocalBuckets
from api.admission.trip import Taken, add, take
from api.logs import logger
from api.stores.calls import RedisCalls, StoreDown, StoreRefused

REFUSES_WRITES = "refuses writes"


class Counting:
    """Takes from buckets, wherever they are. `name` says in the log what is counted."""

    def __init__(
        self, calls: RedisCalls, name: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.trouble = ""
        """Why the last take could not be counted in Redis; empty if it could."""
        self._calls = calls
        self._name = name
        self._clock = clock
        self._local = LocalBuckets()

    async def take(self, buckets: Sequence[Bucket], *, record_key: str = "") -> Taken | None:
        """Take from all buckets or from none; None where the store cannot be asked."""
        try:
            taken = await take(self._calls, buckets, record_key=record_key)
        except (StoreDown, StoreRefused) as exc:
            self._note(type(exc).__name__)
            return None
        if taken.writes == "refused":
            self._note(REFUSES_WRITES)
        elif taken.writes == "done" or self.trouble != REFUSES_WRITES:
            self._note("")
        return taken

    def take_here(self, buckets: Sequence[Bucket]) -> tuple[bool, list[int]]:
        """Take from this process's own buckets; return whether it passed, and the levels."""
        return self._local.take(buckets, self._now_us())

    async def add(self, bucket: Bucket, amount: int) -> bool:
        """Correct a bucket in Redis; return whether that was done."""
        try:
            return await add(self._calls, bucket, amount)
        except (StoreDown, StoreRefused):
            return False

    def add_here(self, bucket: Bucket, amount: int) -> None:
        self._local.add(bucket, amount, self._now_us())

    def _now_us(self) -> int:
        return int(self._clock() * 1e6)

    def _note(self, trouble: str) -> None:
        had_trouble, self.trouble = self.trouble, trouble
        if bool(had_trouble) == bool(trouble):
            return
        if trouble:
            facts = {"counts": self._name, "reason": trouble}
            logger.warning("cannot be counted in Redis", extra={"facts": facts})
        else:
            logger.info("counted in Redis again", extra={"facts": {"counts": self._name}})
