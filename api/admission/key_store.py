"""API keys in the ledger's Redis: create, read, list, rotate, revoke; each change is atomic.

A record is a hash of its JSON and its version, which the door reads with every request. Nothing
here holds a secret longer than its making takes. Times are the server's.
"""

import secrets
from collections.abc import Callable
from typing import Any

import msgspec

from api.admission.keys import (
    KEY_ID,
    ApiKey,
    KeyDigest,
    KeyRecord,
    KeySpec,
    digest_of,
    new_api_key,
)
from api.admission.refusals import KeysDown
from api.admission.trip import TAG
from api.logs import logger
from api.stores.calls import RedisCalls, Script, StoreDown, StoreRefused

MAX_KEYS = 10_000
PAGE = 100
KEPT_MS = 90 * 86_400_000
"""A key that has ended is still listed so long."""
MAX_GRACE_S = 30 * 86_400
_ATTEMPTS = 5

_RECORD = f"{TAG}:key:"
_INDEX = f"{TAG}:keys"

# KEYS: index, record. ARGV: id, version, record, when to forget it in ms or '', prefix, limit.
# Ids whose record is forgotten are swept only when the index is full.
_CREATE = Script("""
local function is_full() return redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[6]) end
if is_full() then
  for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    if redis.call('EXISTS', ARGV[5] .. id) == 0 then redis.call('ZREM', KEYS[1], id) end
  end
  if is_full() then return 'full' end
end
if redis.call('EXISTS', KEYS[2]) == 1 then return 'taken' end
local time = redis.call('TIME')
redis.call('HSET', KEYS[2], 'version', ARGV[2], 'record', ARGV[3])
if ARGV[4] ~= '' then redis.call('PEXPIREAT', KEYS[2], ARGV[4]) end
redis.call('ZADD', KEYS[1], time[1] * 1000000 + time[2], ARGV[1])
return 'created'
""")

# KEYS: record. ARGV: version expected, version, record, when to forget it in ms or ''.
_REPLACE = Script("""
if redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[2], 'record', ARGV[3])
if ARGV[4] ~= '' then redis.call('PEXPIREAT', KEYS[1], ARGV[4]) end
return 1
""")

# KEYS: index. ARGV: prefix, first, last. Returns records, false for those that are forgotten.
_LIST = Script("""
local records = {}
for i, id in ipairs(redis.call('ZRANGE', KEYS[1], ARGV[2], ARGV[3])) do
  records[i] = redis.call('HGET', ARGV[1] .. id, 'record')
end
return records
""")

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(KeyRecord)


class UnknownKey(Exception):
    """There is no such key, or it is revoked."""


class KeysFull(Exception):
    """MAX_KEYS keys exist."""


class Created(msgspec.Struct, frozen=True):
    """A new key, and its record."""

    record: KeyRecord
    key: ApiKey
    """To be shown once."""


class KeyPage(msgspec.Struct, frozen=True):
    """A part of the list of keys."""

    records: list[KeyRecord]
    """In the order in which they were made."""
    next: int | None
    """Where the next page begins; None at the end."""


def record_key(id: str) -> str:
    return _RECORD + id


class KeyStore:
    """The keys of all processes.

    Every method raises KeysDown where Redis does not answer or refuses.
    """

    def __init__(self, calls: RedisCalls, *, pepper: bytes = b"", max_keys: int = MAX_KEYS) -> None:
        self._calls = calls
        self._pepper = pepper
        self._max_keys = max_keys

    def digest(self, key: ApiKey) -> str:
        return digest_of(key, self._pepper)

    async def create(self, spec: KeySpec) -> Created:
        """Make a key. Raises KeysFull, or ValueError for what a key may not have."""
        spec = msgspec.convert(msgspec.to_builtins(spec), KeySpec)
        now_s = await self.now()
        while True:
            key = new_api_key()
            record = KeyRecord(
                **msgspec.structs.asdict(spec),
                id=key.id,
                digests=(KeyDigest(self.digest(key)),),
                created_at=now_s,
                version=_new_version(),
            )
            keys = [_INDEX, record_key(key.id)]
            args = [key.id, *_written(record), _RECORD, self._max_keys]
            match await self._run(_CREATE, keys, args):
                case b"created":
                    return Created(record, key)
                case b"full":
                    raise KeysFull(f"there are {self._max_keys} keys: revoke some")

    async def get(self, id: str) -> KeyRecord | None:
        """Return the record, whatever its state."""
        if not KEY_ID.fullmatch(id):
            return None
        return _read(await self._call("HGET", record_key(id), "record"))

    async def page(self, start: int = 0) -> KeyPage:
        """Return PAGE keys from the `start`-th on."""
        start = max(0, start)
        raw = await self._run(_LIST, [_INDEX], [_RECORD, start, start + PAGE - 1])
        records = [record for record in map(_read, raw) if record is not None]
        return KeyPage(records, start + PAGE if len(raw) == PAGE else None)

    async def rotate(self, id: str, *, grace_s: float = 0.0) -> Created:
        """Give the key another secret; the one before it serves for `grace_s` more.

        Raises UnknownKey, or ValueError for a grace that is negative or above 30 days.
        """
        if not 0 <= grace_s <= MAX_GRACE_S:
            raise ValueError(f"the grace must be within 0 and {MAX_GRACE_S} seconds")
        key = new_api_key(id)
        now_s = await self.now()

        def rotated(record: KeyRecord) -> KeyRecord:
            before = KeyDigest(record.digests[0].digest, not_after=now_s + grace_s)
            digests = (KeyDigest(self.digest(key)), *((before,) if grace_s else ()))
            return msgspec.structs.replace(record, digests=digests)

        return Created(await self._edit(id, now_s, rotated), key)

    async def revoke(self, id: str) -> KeyRecord:
        """End the key from the next request on. Raises UnknownKey.

        A server out of memory refuses everything but deletions: there the record is deleted.
        """
        now_s = await self.now()

        def revoked(record: KeyRecord) -> KeyRecord:
            return msgspec.structs.replace(record, revoked_at=now_s)

        try:
            return await self._edit(id, now_s, revoked)
        except KeysDown as exc:
            record = await self.get(id)
            if record is None or not isinstance(exc.__cause__, StoreRefused):
                raise
            await self._call("DEL", record_key(id))
            return revoked(record)

    async def now(self) -> float:
        seconds, micros = await self._call("TIME")
        return float(seconds) + float(micros) / 1e6

    async def _edit(
        self, id: str, now_s: float, edited: Callable[[KeyRecord], KeyRecord]
    ) -> KeyRecord:
        """Replace the record by what `edited` makes of it, unless it has changed meanwhile."""
        for _ in range(_ATTEMPTS):
            record = await self.get(id)
            if record is None or record.state(now_s) == "revoked":
                raise UnknownKey(f"there is no key {id!a}, or it is revoked")
            changed = msgspec.structs.replace(edited(record), version=_new_version())
            args = [record.version, *_written(changed)]
            if await self._run(_REPLACE, [record_key(id)], args):
                return changed
        raise KeysDown(f"the key {id} is being changed elsewhere")

    async def _run(self, script: Script, keys: list[str], args: list[Any]) -> Any:
        try:
            return await self._calls.run(script, keys, args)
        except (StoreDown, StoreRefused) as exc:
            raise _down(exc) from exc

    async def _call(self, *command: str) -> Any:
        try:
            return await self._calls.call(lambda: self._calls.redis.execute_command(*command))
        except (StoreDown, StoreRefused) as exc:
            raise _down(exc) from exc


def _down(exc: Exception) -> KeysDown:
    how = "refuses" if isinstance(exc, StoreRefused) else "does not answer"
    return KeysDown(f"the key store {how}")


def _new_version() -> str:
    return secrets.token_hex(8)


def _written(record: KeyRecord) -> tuple[str, bytes, int | str]:
    """Return version, record, and when to forget it in ms since the epoch ('' for never)."""
    ends = [end for end in (record.revoked_at, record.expires_at) if end is not None]
    forget_ms = int(min(ends) * 1000) + KEPT_MS if ends else ""
    return record.version, _encoder.encode(record), forget_ms


def _read(raw: bytes | None) -> KeyRecord | None:
    """Return the record; None, and a line in the log, for one that cannot be read."""
    if raw is None:
        return None
    try:
        return _decoder.decode(raw)
    except msgspec.DecodeError:
        logger.error("key record cannot be read")
        return None
