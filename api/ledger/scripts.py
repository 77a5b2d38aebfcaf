"""The ledger's Lua scripts: reserve, settle and state, each atomic over all budgets it names.

Everything lies in four keys of one hash tag, so a Cluster keeps them together and every key that
a script touches is declared. Whatever script runs first charges the holds whose lease has ended
and forgets what is over. Runs on Redis 6, Redis 7 and Valkey.
"""

import msgspec

from api.stores.calls import Script

KEYS = tuple(f"{{rag:ledger}}:{name}" for name in ("counts", "holds", "leases", "forget"))
"""counts: amounts by window; holds: open, expired and settled ones; leases: open holds by the
end of their lease; forget: marks and windows by the time when they are of no more use."""

MARK_MS = 600_000
"""A settled hold is remembered this long after its lease: a settlement may be sent twice."""
WINDOW_KEEP_MS = 10_800_000
"""A window is kept this long after its end: above the longest lease and a mark."""
HOLDS_RETRY_MS = 5_000
SWEEP = 100
"""Ended leases, and forgotten things, that one script deals with: some 3 ms of CPU."""

_COMMON = (
    f"""
local COUNTS, HOLDS, LEASES, FORGET = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local MARK_MS, WINDOW_KEEP_MS = {MARK_MS}, {WINDOW_KEEP_MS}
local HOLDS_RETRY_MS, SWEEP = {HOLDS_RETRY_MS}, {SWEEP}
"""
    + """
local call = redis.call
local now = tonumber(ARGV[1])
if not now then
  local time = call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end

-- First day of the month of a day; days since the epoch.
-- https://howardhinnant.github.io/date_algorithms.html#civil_from_days
local function month_start(day)
  local z = day + 719468
  local doe = z % 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524)
    - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  return day - doy + math.floor((153 * mp + 2) / 5)
end

local function window_of(scope, period)
  local now_s = math.floor(now / 1000)
  local starts, ends
  if period == 'month' then
    local first = month_start(math.floor(now_s / 86400))
    starts, ends = first * 86400, month_start(first + 31) * 86400
  else
    starts = now_s - now_s % tonumber(period)
    ends = starts + tonumber(period)
  end
  return string.format('%s|%s|%d|%d', scope, period, starts, ends), ends * 1000
end

-- Rows of window, spent, reserved and the smallest amount asked for (0: none yet).
local function read_counts(windows)
  local rows = {}
  for i, text in ipairs(call('HMGET', COUNTS, unpack(windows))) do
    local spent, reserved, smallest = string.match(text or '0 0 0', '^(%S+) (%S+) (%S+)$')
    rows[i] = {windows[i], tonumber(spent), tonumber(reserved), tonumber(smallest)}
    rows[i].is_new = not text
  end
  return rows
end

-- A window that is over for long is not made again: nobody would forget it.
local function write_counts(rows)
  local fields = {}
  for _, row in ipairs(rows) do
    local until_ms = row.is_new and tonumber(string.match(row[1], '%d+$')) * 1000 + WINDOW_KEEP_MS
    if until_ms and until_ms > now then call('ZADD', FORGET, until_ms, 'window|' .. row[1]) end
    if not until_ms or until_ms > now then
      fields[#fields + 1] = row[1]
      fields[#fields + 1] = string.format('%d %d %d', row[2], row[3], row[4])
    end
  end
  if #fields > 0 then call('HSET', COUNTS, unpack(fields)) end
end

local function add(windows, spent, reserved)
  if #windows == 0 then return end
  local rows = read_counts(windows)
  for _, row in ipairs(rows) do
    row[2], row[3] = row[2] + spent, row[3] + reserved
  end
  write_counts(rows)
end

local function write_hold(id, state, amount, windows)
  call('HSET', HOLDS, id, state .. '\\n' .. string.format('%d', amount) .. '\\n'
    .. table.concat(windows, '\\n'))
end

local function read_hold(id)
  local text = call('HGET', HOLDS, id)
  if not text then return nil end
  local state, amount, rest = string.match(text, '^(%a+)\\n(%d+)\\n(.*)$')
  local windows = {}
  for window in string.gmatch(rest, '[^\\n]+') do windows[#windows + 1] = window end
  return {state = state, amount = tonumber(amount), windows = windows}
end

-- One string: redis-py spends 5 us on each part of a nested reply.
local function reply(parts)
  for _, row in ipairs(parts[#parts]) do row.is_new = nil end
  return cmsgpack.pack(parts)
end

local function sweep()
  for _, id in ipairs(call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, SWEEP)) do
    call('ZREM', LEASES, id)
    local hold = read_hold(id)
    add(hold.windows, hold.amount, -hold.amount)
    write_hold(id, 'expired', hold.amount, hold.windows)
    call('ZADD', FORGET, now + MARK_MS, 'hold|' .. id)
  end
  for _, member in ipairs(call('ZRANGEBYSCORE', FORGET, '-inf', now, 'LIMIT', 0, SWEEP)) do
    call('ZREM', FORGET, member)
    local kind, name = string.match(member, '^(%a+)|(.*)$')
    if kind == 'hold' then
      call('HDEL', HOLDS, name)
    else
      call('HDEL', COUNTS, name)
    end
  end
end
"""
)

_RESERVE = """
-- ARGV: now, hold id, amount, lease in ms, then name, period and limit of each scope.
-- Returns how it went (held, refused, known), now, the lease's end, the refusing scope counted
-- from 1, when to try again in ms, and the rows of counts.
sweep()
local id, amount, lease_end = ARGV[2], tonumber(ARGV[3]), now + tonumber(ARGV[4])
if call('HEXISTS', HOLDS, id) == 1 then return reply({'known', now, 0, 0, 0, {}}) end

local function wait_for(limit, ends, spent, reserved)
  if spent + amount > limit then return ends - now end
  if spent + reserved + amount <= limit then return 0 end
  local soonest = call('ZRANGE', LEASES, 0, 0, 'WITHSCORES')[2]
  local lease_ms = soonest and math.max(1, tonumber(soonest) - now) or HOLDS_RETRY_MS
  return math.min(ends - now, lease_ms, HOLDS_RETRY_MS)
end

local windows, ends = {}, {}
for i = 5, #ARGV, 3 do
  local n = #windows + 1
  windows[n], ends[n] = window_of(ARGV[i], ARGV[i + 1])
end
local rows, asked = read_counts(windows), math.max(1, amount)
local refused_by, retry_ms, is_smallest = 0, 0, false
for n, row in ipairs(rows) do
  local limit = tonumber(ARGV[4 + 3 * n])
  -- What is above the limit never fits: it says nothing about what is left.
  if amount <= limit and (row[4] == 0 or asked < row[4]) then
    row[4], is_smallest = asked, true
  end
  local wait = wait_for(limit, ends[n], row[2], row[3])
  if wait > retry_ms then refused_by, retry_ms = n, wait end
end
if refused_by > 0 then
  if is_smallest then write_counts(rows) end
  return reply({'refused', now, 0, refused_by, retry_ms, rows})
end

for _, row in ipairs(rows) do row[3] = row[3] + amount end
write_counts(rows)
write_hold(id, 'held', amount, windows)
call('ZADD', LEASES, lease_end, id)
return reply({'held', now, lease_end, 0, 0, rows})
"""

_SETTLE = """
-- ARGV: now, then id, actual, forget time in ms and number of windows of each settlement,
-- followed by its windows. One without windows undoes a reservation that may come only later.
-- Returns how each went and what was charged above its hold.
local function settle(id, actual, forget_at, windows)
  -- First, for a Redis 6 that is full: after a write that needs no memory it takes all others.
  call('ZREM', LEASES, id)
  local hold = read_hold(id)
  if hold and hold.state == 'settled' then return {'again', 0} end
  if hold and hold.state == 'held' then
    add(hold.windows, actual, -hold.amount)
  elseif hold then
    add(hold.windows, actual - hold.amount, 0)
  elseif #windows > 0 and forget_at <= now then
    return {'late', 0}
  else
    add(windows, actual, 0)
  end
  write_hold(id, 'settled', 0, {})
  call('ZADD', FORGET, math.max(forget_at, now + MARK_MS), 'hold|' .. id)
  return {hold and hold.state or 'unknown', hold and math.max(0, actual - hold.amount) or 0}
end

local outcomes, i = {}, 2
while i <= #ARGV do
  local n, windows = tonumber(ARGV[i + 3]), {}
  for k = 1, n do windows[k] = ARGV[i + 3 + k] end
  outcomes[#outcomes + 1] = settle(ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), windows)
  i = i + 4 + n
end
sweep()
return cmsgpack.pack(outcomes)
"""

_STATE = """
-- ARGV: now, then name and period of each scope. Returns now and the rows of counts.
sweep()
local windows = {}
for i = 2, #ARGV, 2 do windows[#windows + 1] = window_of(ARGV[i], ARGV[i + 1]) end
return reply({now, read_counts(windows)})
"""


class TwoForms(msgspec.Struct, frozen=True):
    """A script for servers that know flags, and for Redis 6, which fails at their line."""

    flagged: Script
    plain: Script

    @classmethod
    def of(cls, flags: str, lua: str) -> "TwoForms":
        return cls(Script(f"#!lua{flags}\n{_COMMON}{lua}"), Script(_COMMON + lua))


# A full server refuses to reserve, but what was spent it must take:
# https://redis.io/docs/latest/develop/programmability/lua-api/#script_flags
RESERVE = TwoForms.of("", _RESERVE)
SETTLE = TwoForms.of(" flags=allow-oom", _SETTLE)
STATE = TwoForms.of(" flags=allow-oom", _STATE)
