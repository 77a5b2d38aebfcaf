"""The door's one script: all or nothing, exact over processes, honest about refused writes."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from api.admission import trip
from api.admission.gcra import MINUTE_US, Bucket
from api.stores.calls import RedisCalls, StoreDown, StoreRefused
from tests.admission.doors import with_calls
from tests.support.servers import RedisServer

NOW_US = 1_750_000_000_000_000
ROOT = Path(__file__).parents[2]


def bucket(name: str, limit: int, cost: int = 1) -> Bucket:
    return Bucket(f"{trip.TAG}:{name}", limit, cost)


def test_take_several_limits_is_all_or_nothing(either: RedisServer) -> None:
    async def scenario(calls: RedisCalls) -> None:
        both = [bucket("requests", 10), bucket("tokens", 100, 60)]
        assert (await trip.take(calls, both, now_us=NOW_US)).passed
        refused = await trip.take(calls, both, now_us=NOW_US)
        assert (refused.passed, refused.writes) == (False, "none")
        assert refused.levels == [MINUTE_US, 60 * MINUTE_US]

    asyncio.run(with_calls(either, scenario))


def test_take_returns_the_version_in_the_same_trip(either: RedisServer) -> None:
    async def scenario(calls: RedisCalls) -> None:
        record = f"{trip.TAG}:key:a"
        await calls.redis.hset(record, mapping={"version": "v7", "record": "{}"})
        taken = await trip.take(calls, [bucket("b", 5)], record_key=record)
        assert (taken.passed, taken.version) == (True, "v7")
        without = await trip.take(calls, [], record_key=f"{trip.TAG}:key:b")
        assert (without.passed, without.writes, without.version) == (True, "none", None)
        seconds, micros = await calls.redis.time()
        assert abs(taken.now_s - (seconds + micros / 1e6)) < 60

    asyncio.run(with_calls(either, scenario))


def test_take_is_one_command_a_request(server: RedisServer) -> None:
    async def scenario(calls: RedisCalls) -> None:
        record = f"{trip.TAG}:key:a"
        buckets = [bucket("requests", 100), bucket("tokens", 100)]
        await trip.take(calls, buckets, record_key=record)  # learns the script
        calls.redis.sent.clear()
        for _ in range(10):
            await trip.take(calls, buckets, record_key=record)
        sent = [command[0] for command in calls.redis.sent]
        assert sent == ["EVALSHA"] * 10

    asyncio.run(with_calls(server, scenario))


def test_take_buckets_vanish_when_they_are_empty(either: RedisServer) -> None:
    async def scenario(calls: RedisCalls) -> None:
        await trip.take(calls, [bucket("b", 60, 30)])
        ttl_ms = await calls.redis.pttl(f"{trip.TAG}:b")
        assert 0 < ttl_ms <= 30_000 + trip.KEPT_MS
        await trip.take(calls, [bucket("looked at", 60, 0)])
        assert await calls.redis.exists(f"{trip.TAG}:looked at") == 0

    asyncio.run(with_calls(either, scenario))


def test_take_four_processes_pass_exactly_the_limit(either: RedisServer) -> None:
    command = [sys.executable, "-m", "tests.admission.taker", str(either.socket), "101", "60"]
    takers = [
        subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    try:
        for taker in takers:
            assert taker.stdout.readline() == "ready\n"
        for taker in takers:
            taker.stdin.write("go\n")
            taker.stdin.flush()
        passed = [int(taker.communicate(timeout=60)[0]) for taker in takers]
    finally:
        for taker in takers:
            taker.kill()
            taker.communicate()
    assert sum(passed) == 101


def test_take_server_out_of_memory_counts_nothing_and_says_so(either: RedisServer) -> None:
    async def scenario(calls: RedisCalls) -> None:
        record = f"{trip.TAG}:key:a"
        await calls.redis.hset(record, "version", "v1")
        await trip.take(calls, [bucket("b", 5)], now_us=NOW_US)
        await calls.redis.config_set("maxmemory", "1")
        full = [bucket("b", 5), bucket("c", 5)]
        taken = await trip.take(calls, full, record_key=record, now_us=NOW_US)
        assert (taken.writes, taken.version) == ("refused", "v1")
        assert not await trip.add(calls, bucket("b", 5), 1, now_us=NOW_US)
        await calls.redis.config_set("maxmemory", "0")
        looked = await trip.take(calls, [bucket("b", 5, 0), bucket("c", 5, 0)], now_us=NOW_US)
        assert looked.levels == [MINUTE_US, 0]

    asyncio.run(with_calls(either, scenario))


def test_take_server_gone_or_wrong_raises(server: RedisServer) -> None:
    async def scenario(calls: RedisCalls) -> None:
        await calls.redis.set(f"{trip.TAG}:key:a", "not a hash")
        with pytest.raises(StoreRefused):
            await trip.take(calls, [], record_key=f"{trip.TAG}:key:a")
        server.kill()
        with pytest.raises(StoreDown):
            await trip.take(calls, [bucket("b", 5)])

    asyncio.run(with_calls(server, scenario))


def test_take_after_a_restart_sends_the_script_again(either: RedisServer) -> None:
    async def scenario(calls: RedisCalls) -> None:
        assert (await trip.take(calls, [bucket("b", 1)])).passed
        either.kill()
        either.start()
        await calls.redis.connection_pool.disconnect()
        assert not (await trip.take(calls, [bucket("b", 1)])).passed  # appendonly: it is kept

    asyncio.run(with_calls(either, scenario))
