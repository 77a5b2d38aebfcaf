"""Caches over a store in trouble, and over generations that change under load."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from api.cache.answer_cache import AnswerCache
from api.cache.entries import CacheKey, entry_id
from api.cache.partition import partition_key
from api.stores.calls import StoreDown
from tests.cache.entries import PARAPHRASE, QUESTION, SCOPE, P, entry, vector
from tests.cache.replicas import with_replicas
from tests.support.servers import RedisServer
from tests.support.waiting import until

BOUND_S = 0.4


@pytest.mark.parametrize("harm", ["kill", "stop", "full"])
def test_lookups_under_store_trouble_answer_in_time(valkey: RedisServer, harm: str) -> None:
    """Killed, stopped, full or started again under load: nothing raises, known answers stay."""

    async def scenario(one: AnswerCache, two: AnswerCache) -> None:
        one.put(entry(QUESTION, vector(1)))
        await until(lambda: two.stats().entries == 1)
        if harm == "kill":
            valkey.kill()
        elif harm == "stop":
            valkey.freeze()
        else:
            await one._copy.store._redis.config_set("maxmemory-policy", "noeviction")
            await one._copy.store._redis.config_set("maxmemory", "1mb")
        await load(one, two, seconds=1.0)
        with pytest.raises(StoreDown):
            await one.delete_all()
        if harm == "kill":
            valkey.start()
        elif harm == "stop":
            valkey.thaw()
        await load(one, two, seconds=0.5)
        await until(lambda: one.stats().store == two.stats().store == "ok")
        if harm != "full":
            two.put(entry("After all?", vector(77)))
            await until(lambda: entry_id(P, "After all?") in one._copy.residents)

    async def load(one: AnswerCache, two: AnswerCache, seconds: float) -> None:
        ends = time.monotonic() + seconds
        n = 0
        while time.monotonic() < ends:
            n += 1
            started = time.monotonic()
            hit = await two.lookup_exact(CacheKey.of(P, QUESTION))
            alike = await two.lookup_semantic(
                CacheKey.of(P, PARAPHRASE, vector(2, near=1, cosine=0.95))
            )
            assert await two.lookup_exact(CacheKey.of(P, f"unknown {n}?")) is None
            assert time.monotonic() - started < BOUND_S
            assert hit is not None and alike is not None
            one.put(entry(f"new {n}?", vector(n), answer="x" * 2000))
            await asyncio.sleep(0.005)

    with_replicas(valkey, scenario)


def test_answers_of_an_old_generation_never_come_back_under_load(valkey: RedisServer) -> None:
    """Writers race a generation change; a reader of the new one never sees an old answer."""

    def scope(generation: str) -> str:
        return partition_key(msgspec.structs.replace(SCOPE, generation=generation))

    async def scenario(one: AnswerCache, two: AnswerCache) -> None:
        generation = 0

        async def write(cache: AnswerCache) -> None:
            for n in range(150):
                began_with = f"g{generation}"
                await asyncio.sleep(0.002)  # an answer takes its time
                fields: dict[str, Any] = {"partition": scope(began_with), "generation": began_with}
                cache.put(entry(f"q{n % 7}?", vector(n % 7), answer=began_with, **fields))

        async def change() -> None:
            nonlocal generation
            for _ in range(10):
                await asyncio.sleep(0.03)
                generation += 1
                for cache in (one, two):
                    cache.keep_generations({f"g{generation}"})

        async def read(cache: AnswerCache) -> int:
            seen = 0
            for n in range(300):
                wanted = f"g{generation}"
                hits = [
                    await cache.lookup_exact(CacheKey.of(scope(wanted), f"q{n % 7}?")),
                    await cache.lookup_semantic(
                        CacheKey.of(scope(wanted), f"q{n % 7}", vector(n % 7))
                    ),
                ]
                assert {hit.entry.answer for hit in hits if hit is not None} <= {wanted}
                seen += sum(hit is not None for hit in hits)
                await asyncio.sleep(0.001)
            return seen

        results = await asyncio.gather(write(one), write(two), change(), read(one), read(two))
        assert min(results[3], results[4]) > 0

    with_replicas(valkey, scenario)
