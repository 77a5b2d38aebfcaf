"""Rate-limit arithmetic: GCRA as a leaky bucket, in exact integers.

Of the two equal forms of ITU-T I.371 this is the continuous-state leaky bucket: where a
theoretical arrival time would be rounded to a microsecond a request, its level is exact.
A request or token is MINUTE_US drops; `limit` drops leak a microsecond, so a full bucket of
`limit` requests is empty after a minute. A cost above the limit passes an empty bucket and
leaves a debt: a batch of 32 at 20 a minute waits, but not for ever.
`trip.py` holds the same arithmetic in Lua; `LocalBuckets` counts in this process alone.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import msgspec

MINUTE_US = 60_000_000
DEBT_MINUTES = 10
"""No bucket is fuller than so many minutes' allowance."""
LOCAL_BUCKETS = 10_000

Unit = Literal["requests", "tokens"]


class Bucket(msgspec.Struct, frozen=True):
    """A rate limit and what a request takes of it; a cost of 0 looks and takes nothing."""

    key: str
    limit: int
    """A minute, 1 or more."""
    cost: int
    unit: Unit = "requests"

    @property
    def capacity(self) -> int:
        return self.limit * MINUTE_US

    @property
    def room_asked(self) -> int:
        return min(self.cost, self.limit) * MINUTE_US


class Allowance(msgspec.Struct, frozen=True):
    """What is left of a rate limit after a request."""

    unit: Unit
    limit: int
    remaining: int
    reset_s: float
    """Until the whole limit is there again."""
    retry_after_s: float
    """Until the same can be asked again; 0 where it passed."""

    @classmethod
    def of(cls, bucket: Bucket, level: int, *, passed: bool) -> "Allowance":
        """`level` as the store returned it: with the cost if it passed, else without."""
        missing = 0 if passed else max(0, level + bucket.room_asked - bucket.capacity)
        return cls(
            unit=bucket.unit,
            limit=bucket.limit,
            remaining=max(0, bucket.capacity - level) // MINUTE_US,
            reset_s=level / bucket.limit / 1e6,
            retry_after_s=missing / bucket.limit / 1e6,
        )

    def headers(self) -> dict[str, str]:
        """https://datatracker.ietf.org/doc/html/draft-ietf-httpapi-ratelimit-headers-06"""
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(math.ceil(self.reset_s)),
        }


class Level(msgspec.Struct):
    """How full a bucket was at a time."""

    at_us: int
    drops: int


class LocalBuckets:
    """Buckets in this process alone, the least used forgotten first."""

    def __init__(self, max_buckets: int = LOCAL_BUCKETS) -> None:
        self._max_buckets = max_buckets
        self._levels: OrderedDict[str, Level] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, buckets: Sequence[Bucket], now_us: int) -> tuple[bool, list[int]]:
        """Take from all buckets or from none; return whether it passed, and the levels."""
        levels = [self._level(bucket, now_us) for bucket in buckets]
        passed = all(
            level + bucket.room_asked <= bucket.capacity
            for level, bucket in zip(levels, buckets, strict=True)
        )
        if passed:
            levels = [
                self.add(bucket, bucket.cost, now_us) if bucket.cost else level
                for level, bucket in zip(levels, buckets, strict=True)
            ]
        return passed, levels

    def add(self, bucket: Bucket, amount: int, now_us: int) -> int:
        """Add requests or tokens, or take some back; return the level."""
        level = self._level(bucket, now_us) + amount * MINUTE_US
        level = min(max(0, level), bucket.capacity * DEBT_MINUTES)
        self._levels[bucket.key] = Level(now_us, level)
        self._levels.move_to_end(bucket.key)
        if len(self._levels) > self._max_buckets:
            self._levels.popitem(last=False)
        return level

    def _level(self, bucket: Bucket, now_us: int) -> int:
        level = self._levels.get(bucket.key)
        if level is None:
            return 0
        level.at_us = min(level.at_us, now_us)  # the clock was set back: leak from here on
        return max(0, level.drops - (now_us - level.at_us) * bucket.limit)
