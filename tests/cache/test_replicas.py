"""Caches that share a store: what one puts and deletes, the others see."""

import asyncio

from api.cache.answer_cache import AnswerCache
from api.cache.entries import CacheKey, entry_id, entry_key
from api.cache.store import LOG
from tests.cache.entries import PARAPHRASE, QUESTION, P, entry, vector
from tests.cache.replicas import replica, with_replicas
from tests.support.servers import RedisServer
from tests.support.waiting import until


def test_replica_sees_what_another_put_and_deleted(valkey: RedisServer) -> None:
    async def scenario(one: AnswerCache, two: AnswerCache) -> None:
        one.put(entry(QUESTION, vector(1)))
        await until(lambda: two.stats().entries == 1)
        hit = await two.lookup_semantic(CacheKey.of(P, PARAPHRASE, vector(2, near=1, cosine=0.95)))
        assert hit.entry.answer == "forty-two"
        await two.reject(entry_id(P, QUESTION), PARAPHRASE)
        await until(lambda: one.stats().entries == 0)
        one.put(entry(QUESTION, vector(1)))
        assert await one.lookup_semantic(CacheKey.of(P, PARAPHRASE, vector(1))) is None
        one.put(entry("Another?", vector(5), doc_ids=("d9",)))
        await until(lambda: two.stats().entries == 2)
        assert await two.delete_document("d9") == 1
        await until(lambda: one.stats().entries == 1)

    with_replicas(valkey, scenario)


def test_replica_new_one_loads_what_is_there(valkey: RedisServer) -> None:
    async def scenario() -> None:
        async with replica(valkey, "one") as one:
            for n in range(120):
                one.put(entry(f"question {n}?", vector(n)))
            await one.reject(entry_id(P, QUESTION), PARAPHRASE)
            one.put(entry(QUESTION, vector(200)))
        async with replica(valkey, "two") as two:
            await until(lambda: two._replica._is_synced)
            assert two.stats().entries == 121
            assert (await two.lookup_exact(CacheKey.of(P, "question 7?"))).kind == "exact"
            assert not two.may_share(entry_id(P, QUESTION), PARAPHRASE)

    asyncio.run(scenario())


def test_replica_delete_reaches_what_it_does_not_hold(valkey: RedisServer) -> None:
    async def scenario() -> None:
        async with replica(valkey, "one") as one:
            for n in range(100):
                one.put(entry(f"question {n}?", vector(n), tenant=("acme", "other")[n % 2]))
        async with replica(valkey, "small", max_bytes=40_000) as small:
            await until(lambda: small._replica._is_synced)
            assert small.stats().entries < 60
            assert (await small.lookup_exact(CacheKey.of(P, "question 0?"))).entry.tenant == "acme"
            assert await small.delete_tenant("acme") == 50
            assert await small.lookup_exact(CacheKey.of(P, "question 0?")) is None
            assert (await small.lookup_exact(CacheKey.of(P, "question 1?"))) is not None

    asyncio.run(scenario())


def test_replica_payload_gone_serves_the_next_candidate(valkey: RedisServer) -> None:
    async def scenario(one: AnswerCache, two: AnswerCache) -> None:
        one.put(entry("Is plan 5 free?", vector(2, near=1, cosine=0.99), answer="near"))
        one.put(entry("Is plan five free?!", vector(3, near=1, cosine=0.95), answer="next"))
        await until(lambda: two.stats().entries == 2)
        two._copy.residents._payloads.clear()
        await two._copy.store._redis.delete(entry_key(entry_id(P, "Is plan 5 free?")))
        hit = await two.lookup_semantic(CacheKey.of(P, "Is plan 5 free of charge?", vector(1)))
        assert hit.entry.answer == "next"
        assert two.stats().entries == 1

    with_replicas(valkey, scenario)


def test_replica_gap_in_the_log_drops_what_the_store_lost(valkey: RedisServer) -> None:
    async def scenario(one: AnswerCache, two: AnswerCache) -> None:
        for n in range(3):
            one.put(entry(f"question {n}?", vector(n)))
        await until(lambda: two.stats().entries == 3)
        redis = one._copy.store._redis
        pipeline = redis.pipeline()  # at once: a deletion that the log no longer tells
        pipeline.delete(entry_key(entry_id(P, "question 1?")), LOG)
        pipeline.xadd(LOG, {b"c": b""})
        await pipeline.execute()
        await until(lambda: one.stats().entries == two.stats().entries == 2)
        assert await two.lookup_exact(CacheKey.of(P, "question 1?")) is None
        assert await two.lookup_exact(CacheKey.of(P, "question 2?")) is not None

    with_replicas(valkey, scenario)


def test_replica_flushed_store_empties_the_copies(valkey: RedisServer) -> None:
    async def scenario(one: AnswerCache, two: AnswerCache) -> None:
        one.put(entry(QUESTION, vector(1)))
        await until(lambda: two.stats().entries == 1)
        await one._copy.store._redis.flushall()
        await until(lambda: one.stats().entries == two.stats().entries == 0)

    with_replicas(valkey, scenario)
