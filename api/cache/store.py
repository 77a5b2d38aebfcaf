"""The shared cache in Redis or Valkey: values by key, and a bounded log of changes.

Plain strings and one stream, no modules: Redis 6 serves. A value is read by GET, so an
allkeys-lru server sees what is in use. Every call is bounded in time and behind a circuit
breaker; what goes wrong becomes StoreDown or StoreRefused here and a miss further up.
"""

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import msgspec

from api.cache.entries import PREFIX
from api.stores.breaker import Breaker
from api.stores.calls import TIMEOUT_S, RedisCalls, StoreRefused

LOG = "rag:cache:log"
LOG_LENGTH = 10_000
PAGE = 50
"""Values of one trip: some 300 KB, well within the timeout."""

LogId = str
START: LogId = "0-0"


class Added(msgspec.Struct, frozen=True, tag="add"):
    """An entry was written."""

    id: str


class Deleted(msgspec.Struct, frozen=True, tag="del"):
    """These entries were deleted."""

    ids: list[str]


class Cited(Protocol):
    """What a deletion looks at: of a stored entry, or of one held in memory."""

    @property
    def tenant(self) -> str: ...
    @property
    def doc_ids(self) -> tuple[str, ...]: ...
    @property
    def created_at(self) -> float: ...


class Voided(msgspec.Struct, frozen=True, tag="void"):
    """Everything of one tenant or document, or everything, written up to `at`, was deleted."""

    scope: Literal["all", "tenant", "document"]
    value: str
    at: float

    def holds(self, entry: Cited) -> bool:
        if entry.created_at > self.at:
            return False
        match self.scope:
            case "tenant":
                return entry.tenant == self.value
            case "document":
                return self.value in entry.doc_ids
        return True


class Blocked(msgspec.Struct, frozen=True, tag="block"):
    """Feedback said that the entry does not answer the question."""

    id: str
    question: str
    """A hash: this question may not be answered with that entry."""


Change = Added | Deleted | Voided | Blocked


class Logged(msgspec.Struct, frozen=True):
    """A change as it lies in the log, with the process that made it."""

    by: str
    change: Change


class Write(msgspec.Struct, frozen=True):
    """Commands for one trip, and the change that tells other processes of them."""

    commands: list[tuple[Any, ...]]
    change: Change | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Logged)


class Store:
    """`redis` is a redis.asyncio.Redis: bytes returned, no retries."""

    def __init__(
        self,
        redis: Any,
        *,
        name: str,
        breaker: Breaker | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self.name = name
        """Of this process, in the log."""
        self.breaker = breaker or Breaker("redis_cache")
        self._redis = redis
        self._calls = RedisCalls(redis, self.breaker, timeout_s=timeout_s)

    async def get(self, key: str) -> bytes | None:
        """Raises StoreDown, StoreRefused, as all calls here do."""
        value: bytes | None = await self._calls.call(lambda: self._redis.get(key))
        return value

    async def get_many(self, keys: Sequence[str | bytes]) -> list[bytes | None]:
        values: list[bytes | None] = []
        for start in range(0, len(keys), PAGE):
            values += await self._calls.call(partial(self._redis.mget, keys[start : start + PAGE]))
        return values

    async def write(self, writes: Sequence[Write]) -> list[bool]:
        """Send all in one trip; False for each that was refused, in whole or in part."""
        pipeline = self._redis.pipeline(transaction=False)
        for write in writes:
            for command in write.commands:
                pipeline.execute_command(*command)
            if write.change is not None:
                fields: Any = {b"c": _encoder.encode(Logged(self.name, write.change))}
                pipeline.xadd(LOG, fields, maxlen=LOG_LENGTH, approximate=True)
        outcomes = iter(await self._calls.call(lambda: pipeline.execute(raise_on_error=False)))
        lengths = [len(write.commands) + (write.change is not None) for write in writes]
        return [not any(isinstance(next(outcomes), Exception) for _ in range(n)) for n in lengths]

    async def end_of_log(self) -> LogId:
        rows = await self._calls.call(lambda: self._redis.xrevrange(LOG, count=1))
        return rows[0][0].decode() if rows else START

    async def read_log(self, since: LogId, count: int) -> list[tuple[LogId, Logged | None]]:
        """Changes from `since` on, itself included; None for one of an unknown kind."""
        rows = await self._calls.call(lambda: self._redis.xrange(LOG, min=since, count=count))
        return [(id.decode(), _decode(fields)) for id, fields in rows]

    async def run_id(self) -> str:
        """Changes when the server starts again; empty where INFO is not allowed."""
        try:
            info = await self._calls.call(lambda: self._redis.info("server"))
        except StoreRefused:
            return ""
        return str(info.get("run_id", ""))

    async def scan(self, limit: int) -> AsyncIterator[list[bytes]]:
        """Pages of entry keys, about `limit` in all."""
        cursor, seen = 0, 0
        while True:
            scan = partial(self._redis.scan, cursor, match=PREFIX + "*", count=500)
            cursor, keys = await self._calls.call(scan)
            found = [key for key in keys if key.count(b":") == 3]
            seen += len(found)
            yield found
            if cursor == 0 or seen >= limit:
                return


def _decode(fields: dict[bytes, bytes]) -> Logged | None:
    try:
        return _decoder.decode(fields[b"c"])
    except (KeyError, msgspec.DecodeError):
        return None
