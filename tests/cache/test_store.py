import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import pytest

from api.cache.entries import encode_entry, entry_key
from api.cache.store import LOG, Added, Deleted, Store, Voided, Write
from api.cache.writer import TOUCH_S, Writer
from api.stores.breaker import Breaker
from api.stores.calls import StoreDown, StoreRefused
from tests.cache.entries import entry, vector
from tests.support.servers import RedisServer
from tests.support.waiting import until

BOUND_S = 0.4


def run(valkey: RedisServer, scenario: Callable[[Store], Awaitable[None]]) -> None:
    async def main() -> None:
        redis = valkey.client(1.0)
        try:
            await scenario(Store(redis, name="test", breaker=Breaker("cache", open_s=0.3)))
        finally:
            await redis.aclose()

    asyncio.run(main())


def put(question: str, **fields) -> Write:
    written = entry(question, vector(1), **fields)
    return Write(
        [("SET", entry_key(written.id), encode_entry(written), "PX", 60_000)], Added(written.id)
    )


def id_of(write: Write) -> str:
    assert isinstance(write.change, Added)
    return write.change.id


def test_store_write_is_read_and_logged(valkey: RedisServer) -> None:
    async def scenario(store: Store) -> None:
        writes = [put("one?"), Write([], Deleted(["x"])), Write([("DEL", "none")])]
        assert await store.write(writes) == [True, True, True]
        id = id_of(writes[0])
        assert await store.get(entry_key(id)) == writes[0].commands[0][2]
        assert await store.get_many([entry_key(id), "none"]) == [writes[0].commands[0][2], None]
        log = await store.read_log("0-0", 10)
        assert [logged.change for _, logged in log] == [Added(id), Deleted(["x"])]
        assert log[0][1].by == "test"
        assert await store.end_of_log() == log[-1][0]
        assert [key async for page in store.scan(100) for key in page] == [entry_key(id).encode()]
        assert len(await store.run_id()) == 40

    run(valkey, scenario)


def test_store_log_of_a_newer_version_is_skipped(valkey: RedisServer) -> None:
    async def scenario(store: Store) -> None:
        await store._redis.xadd(LOG, {b"c": b"\x81\xa1a\x01"})
        await store._redis.xadd(LOG, {b"other": b""})
        assert [logged for _, logged in await store.read_log("0-0", 10)] == [None, None]

    run(valkey, scenario)


@pytest.mark.parametrize("harm", ["kill", "stop"])
def test_store_gone_raises_in_time_and_comes_back(valkey: RedisServer, harm: str) -> None:
    async def scenario(store: Store) -> None:
        await store.get("a")
        valkey.kill() if harm == "kill" else valkey.freeze()
        took_s = []
        for _ in range(6):
            started = time.monotonic()
            with pytest.raises(StoreDown):
                await store.get("a")
            took_s.append(time.monotonic() - started)
        assert sorted(took_s)[2] < BOUND_S
        assert min(took_s[3:]) < 0.02  # the breaker is open: nobody is asked
        valkey.start() if harm == "kill" else valkey.thaw()
        async with asyncio.timeout(5):
            while True:
                await asyncio.sleep(0.35)
                with contextlib.suppress(StoreDown):
                    assert await store.get("a") is None
                    return

    run(valkey, scenario)


def test_store_that_answered_while_we_were_busy_is_not_late(valkey: RedisServer) -> None:
    async def scenario(store: Store) -> None:
        await store.get("a")
        for _ in range(3):
            calls = [asyncio.create_task(store.get(str(n))) for n in range(40)]
            for _ in range(3):
                await asyncio.sleep(0)
                time.sleep(0.2)  # noqa: ASYNC251
            assert await asyncio.gather(*calls) == [None] * 40

    run(valkey, scenario)


def test_store_full_is_refused_not_down(valkey: RedisServer) -> None:
    async def scenario(store: Store) -> None:
        await store._redis.config_set("maxmemory-policy", "noeviction")
        await store._redis.config_set("maxmemory", "1mb")
        taken = await store.write([put(f"{n}?", answer="x" * 500_000) for n in range(4)])
        assert not all(taken)
        assert await store.get("a") is None
        with pytest.raises(StoreRefused):
            await store._calls.call(lambda: store._redis.execute_command("NONSENSE"))
        assert not store.breaker.is_open

    run(valkey, scenario)


def test_writer_waits_for_the_store_and_drains_at_the_end(valkey: RedisServer) -> None:
    async def scenario(store: Store) -> None:
        writer = Writer(store)
        writer.start()
        valkey.kill()
        for n in range(50):
            writer.submit(put(f"{n}?"))
        await until(lambda: store.breaker.is_open)
        assert len(writer.pending()) == 50
        with pytest.raises(StoreDown):
            await writer.submit_and_wait(put("never"))
        valkey.start()
        await until(lambda: not store.breaker.is_open)
        writer.submit(put("last?"))
        await writer.close(2.0)
        assert len([key async for page in store.scan(1000) for key in page]) == 51
        assert writer.dropped == 0

    run(valkey, scenario)


def test_writer_full_drops_the_oldest(valkey: RedisServer) -> None:
    async def scenario(store: Store) -> None:
        writer = Writer(store, max_waiting=10)
        for n in range(25):
            writer.submit(put(f"{n}?"))
        assert writer.dropped == 15
        valkey.kill()
        writer.start()
        started = time.monotonic()
        await writer.close(0.5)
        assert time.monotonic() - started < 2.0
        assert writer.dropped == 25

    run(valkey, scenario)


def test_writer_touch_keeps_an_entry_young(valkey: RedisServer) -> None:
    async def scenario(store: Store) -> None:
        writer = Writer(store)
        hot, cold = put("hot?"), put("cold?")
        await store.write([hot, cold])
        writer.start()
        await asyncio.sleep(1.2)  # idle times are in whole seconds
        writer.touch(id_of(hot))
        await until(lambda: not writer._touched)
        await writer.close(5.0)
        assert await idle_s(store, hot) < await idle_s(store, cold)

    async def idle_s(store: Store, write: Write) -> int:
        return await store._redis.object("idletime", write.commands[0][1])

    run(valkey, scenario)


def test_writer_gathers_the_touches_of_an_entry(valkey: RedisServer) -> None:
    async def scenario(store: Store) -> None:
        writer = Writer(store)
        write = put("hot?")
        await store.write([write])
        writer.start()
        before, started = await touches(store), time.monotonic()
        for _ in range(100):
            writer.touch(id_of(write))
            await asyncio.sleep(0.005)
        await until(lambda: not writer._touched)
        await writer.close(1.0)
        assert await touches(store) - before <= 2 + (time.monotonic() - started) / TOUCH_S

    async def touches(store: Store) -> int:
        stats = await store._redis.info("commandstats")
        return stats.get("cmdstat_touch", {"calls": 0})["calls"]

    run(valkey, scenario)


def test_void_holds_what_was_written_before() -> None:
    old = entry("q", created_at=10.0, tenant="acme", doc_ids=("a", "b"))
    assert Voided("all", "", 10.0).holds(old)
    assert Voided("tenant", "acme", 10.0).holds(old)
    assert Voided("document", "b", 11.0).holds(old)
    assert not Voided("document", "c", 11.0).holds(old)
    assert not Voided("tenant", "other", 11.0).holds(old)
    assert not Voided("all", "", 9.0).holds(old)
