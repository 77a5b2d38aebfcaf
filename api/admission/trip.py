"""Count a request in Redis, and read its key's version, in one round trip: a Lua script.

All keys share the ledger's hash tag, so that a Cluster keeps them together. Takes from every
bucket or from none, by the arithmetic of `gcra.py` and the server's clock. Where the server
refuses writes (no memory, a replica) the key's version is read all the same.
Runs on Redis 6, Redis 7 and Valkey.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from api.admission.gcra import DEBT_MINUTES, MINUTE_US, Bucket
from api.stores.calls import RedisCalls, Script

TAG = "{rag:ledger}"

KEPT_MS = 10_000
"""A bucket is kept this long after it is empty: under an injected time keys still expire by the
server's clock."""

_CONSTANTS = f"local MINUTE_US, DEBT_MINUTES, KEPT_MS = {MINUTE_US}, {DEBT_MINUTES}, {KEPT_MS}"
_COMMON = """
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

-- Returns 'done', or 'refused' where the server takes no writes.
local function keep(key, limit, drops)
  local ms = math.ceil(drops / limit / 1000) + KEPT_MS
  local kept = redis.pcall('SET', key, string.format('%.0f:%.0f', now, drops), 'PX', ms)
  return kept.err and 'refused' or 'done'
end

local function level_of(key, limit)
  local kept = redis.call('GET', key)
  if not kept then return 0 end
  local at, drops = string.match(kept, '^(%d+):(%d+)$')
  at, drops = tonumber(at), tonumber(drops)
  if at > now then keep(key, limit, drops) end  -- the clock was set back: leak from here on
  return math.max(0, drops - math.max(0, now - at) * limit)
end
"""

_TAKE = """
-- KEYS: buckets, then the key's record where there is one.
-- ARGV: now, number of buckets, then limit and cost of each.
-- Returns the text 'passed,writes,now,version,level…'. redis-py reads a list line by line: that
-- cost 20 to 40 us more.
local n_buckets = tonumber(ARGV[2])
local levels, passed, writes = {}, true, 'none'
for i = 1, n_buckets do
  local limit, cost = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
  levels[i] = level_of(KEYS[i], limit)
  if levels[i] + math.min(cost, limit) * MINUTE_US > limit * MINUTE_US then passed = false end
end
for i = 1, n_buckets do
  local limit, cost = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
  if passed and cost > 0 then
    levels[i] = math.min(levels[i] + cost * MINUTE_US, limit * MINUTE_US * DEBT_MINUTES)
    writes = keep(KEYS[i], limit, levels[i])
  end
end
local record = KEYS[n_buckets + 1]
local version = record and redis.call('HGET', record, 'version') or ''
local head = string.format('%d,%s,%.0f,%s', passed and 1 or 0, writes, now, version)
for i = 1, n_buckets do head = head .. string.format(',%.0f', levels[i]) end
return head
"""

_ADD = """
-- KEYS: a bucket. ARGV: now, limit, amount, which may be negative.
local limit = tonumber(ARGV[2])
local drops = level_of(KEYS[1], limit) + tonumber(ARGV[3]) * MINUTE_US
drops = math.min(math.max(0, drops), limit * MINUTE_US * DEBT_MINUTES)
return keep(KEYS[1], limit, drops)
"""

TAKE = Script(_CONSTANTS + _COMMON + _TAKE)
ADD = Script(_CONSTANTS + _COMMON + _ADD)

Writes = Literal["done", "none", "refused"]
"""`none` where there was nothing to count; where they are refused, nothing was counted."""


class Taken(NamedTuple):
    """What the script returned."""

    passed: bool
    writes: Writes
    now_s: float
    """The server's time."""
    version: str | None
    """Of the key's record; None where there is none."""
    levels: list[int]


async def take(
    calls: RedisCalls,
    buckets: Sequence[Bucket],
    *,
    record_key: str = "",
    now_us: int | None = None,
) -> Taken:
    """Take from all buckets or from none, and read the record's version.

    `now_us` replaces the server's clock. Raises StoreDown, StoreRefused.
    """
    keys = [bucket.key for bucket in buckets]
    if record_key:
        keys.append(record_key)
    args: list[int | str] = ["" if now_us is None else now_us, len(buckets)]
    for bucket in buckets:
        args += (bucket.limit, bucket.cost)
    reply = await calls.run(TAKE, keys, args)
    passed, writes, now, version, *levels = reply.decode().split(",")
    return Taken(
        passed=passed == "1",
        writes=writes,
        now_s=int(now) / 1e6,
        version=version or None,
        levels=[int(level) for level in levels],
    )


async def add(calls: RedisCalls, bucket: Bucket, amount: int, *, now_us: int | None = None) -> bool:
    """Add to a bucket, or take back, without asking; return whether it was taken down.

    Raises StoreDown, StoreRefused.
    """
    args = ["" if now_us is None else now_us, bucket.limit, amount]
    return bool(await calls.run(ADD, [bucket.key], args) == b"done")
