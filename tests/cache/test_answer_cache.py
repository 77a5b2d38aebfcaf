import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.cache.answer_cache import AnswerCache
from api.cache.entries import CacheKey, entry_id, entry_key
from api.cache.partition import partition_key
from api.cache.store import LOG, Store
from api.stores.breaker import Breaker
from api.stores.calls import StoreDown
from tests.cache.conftest import Valkey, entry, vector
from tests.cache.test_partition import CHANGES, SCOPE
from tests.cache.test_store import until

P = "p" * 32
QUESTION = "How do I reset my password?"
PARAPHRASE = "How can I reset my password?"
TRAP = "How do I not reset my password?"
BOUND_S = 0.4


def ask(cache: AnswerCache, question: str, **options):
    history = options.pop("history", "")
    return asyncio.run(cache.lookup_exact(CacheKey.of(P, question, history=history), **options))


def ask_alike(cache: AnswerCache, question: str, embedding, **options):
    return asyncio.run(cache.lookup_semantic(CacheKey.of(P, question, embedding), **options))


def filled(**options) -> AnswerCache:
    cache = AnswerCache(threshold=0.92, **options)
    cache.put(entry(QUESTION, vector(1)))
    return cache


def test_lookup_same_question_hits_exactly() -> None:
    cache = filled()
    hit = ask(cache, " how do i RESET my password")
    assert (hit.kind, hit.similarity, hit.entry.answer) == ("exact", 1.0, "forty-two")
    assert hit.entry.payload == {"sources": [{"n": 1, "doc_id": "d1"}]}
    assert ask(cache, "Something else?") is None
    assert ask(cache, QUESTION, history="after another turn") is None
    assert cache.stats().hits == {"exact": 1}
    assert cache.stats().misses == {"exact": 2}


def test_lookup_paraphrase_hits_unless_vetoed() -> None:
    cache = filled()
    hit = ask_alike(cache, PARAPHRASE, vector(2, near=1, cosine=0.95))
    assert hit.kind == "semantic"
    assert hit.similarity == pytest.approx(0.95, abs=1e-3)
    assert ask_alike(cache, PARAPHRASE, vector(2, near=1, cosine=0.91)) is None
    assert ask_alike(cache, TRAP, vector(2, near=1, cosine=0.99)) is None
    assert cache.stats().vetoes == {"negation": 1}


def test_lookup_first_candidate_vetoed_serves_the_next() -> None:
    cache = AnswerCache(threshold=0.9)
    cache.put(entry("Is plan 5 free?", vector(2, near=1, cosine=0.99), answer="no"))
    cache.put(entry("Is plan 4 free?", vector(3, near=1, cosine=0.95), answer="yes"))
    assert ask_alike(cache, "Is plan four free?", vector(1)).entry.answer == "yes"


def test_lookup_threshold_can_be_tightened_only() -> None:
    cache = filled()
    near = vector(2, near=1, cosine=0.95)
    assert ask_alike(cache, PARAPHRASE, near, threshold=0.97) is None
    assert ask_alike(cache, PARAPHRASE, vector(2, near=1, cosine=0.9), threshold=0.5) is None


def test_lookup_without_threshold_is_exact_only() -> None:
    cache = AnswerCache(threshold=None)
    cache.put(entry(QUESTION, vector(1)))
    assert ask_alike(cache, QUESTION, vector(1)) is None
    assert ask(cache, QUESTION).kind == "exact"


def test_lookup_age_and_expiry_are_kept_to() -> None:
    now = 1000.0
    cache = AnswerCache(threshold=0.9, clock=lambda: now)
    cache.put(entry(QUESTION, vector(1), created_at=now, ttl_s=100.0))
    now = 1050.0
    assert ask(cache, QUESTION).age_s == 50.0
    assert ask(cache, QUESTION, max_age_s=49.0) is None
    assert ask_alike(cache, PARAPHRASE, vector(1), max_age_s=49.0) is None
    now = 1100.0
    assert ask(cache, QUESTION) is None
    assert ask_alike(cache, PARAPHRASE, vector(1)) is None
    assert cache.sweep_expired() == 1
    assert cache.stats().entries == 0


class Says:
    def __init__(self, verdict: str) -> None:
        self.verdict = verdict

    async def verify(self, question, entry):
        return self.verdict


@pytest.mark.parametrize(("verdict", "hits"), [("accept", 1), ("reject", 0), ("unknown", 0)])
def test_lookup_verifier_only_a_yes_is_a_hit(verdict: str, hits: int) -> None:
    cache = filled(verifier=Says(verdict))
    assert (ask_alike(cache, PARAPHRASE, vector(1)) is not None) == hits
    assert cache.stats().vetoes == ({} if hits else {"verifier": 1})


def test_reject_deletes_and_keeps_the_pair_apart() -> None:
    cache = filled()
    id = entry_id(P, QUESTION)
    asyncio.run(cache.reject(id, PARAPHRASE))
    assert ask(cache, QUESTION) is None
    cache.put(entry(QUESTION, vector(1)))
    assert ask(cache, QUESTION) is not None
    assert ask_alike(cache, PARAPHRASE, vector(1)) is None
    assert ask_alike(cache, "Hello, how do I reset my password?", vector(1)) is not None
    assert not cache.may_share(id, PARAPHRASE)


def test_delete_by_entry_document_tenant_and_all() -> None:
    async def scenario() -> None:
        cache = AnswerCache(threshold=0.9)
        for n in range(6):
            tenant = "acme" if n < 3 else "other"
            cache.put(entry(f"question {n}?", vector(n), doc_ids=(f"d{n % 2}",), tenant=tenant))
        assert not await cache.delete_entry(entry_id(P, "question 0?"), tenant="other")
        assert await cache.delete_entry(entry_id(P, "question 0?"), tenant="acme")
        assert not await cache.delete_entry(entry_id(P, "question 0?"))
        assert await cache.delete_document("d0") == 2
        assert await cache.delete_tenant("acme") == 1
        assert await cache.lookup_semantic(CacheKey.of(P, "question 5?", vector(5))) is not None
        assert await cache.delete_all() == 2
        assert cache.stats().entries == cache.stats().size_bytes == 0

    asyncio.run(scenario())


def test_memory_is_bounded_and_drops_the_least_used() -> None:
    cache = AnswerCache(threshold=0.9, max_bytes=200_000)
    cache.put(entry("the hot one?", vector(0)))
    for n in range(300):
        cache.put(entry(f"question {n}?", vector(n + 1), answer="x" * 1000))
        assert ask(cache, "the hot one?") is not None
    stats = cache.stats()
    assert stats.size_bytes <= 200_000
    assert 50 < stats.entries < 301
    assert stats.evicted == 301 - stats.entries
    assert ask(cache, "question 0?") is None
    assert ask(cache, "question 299?") is not None


def test_generation_swap_frees_the_old_one() -> None:
    cache = filled()
    assert cache.keep_generations({"g2"}) == 1
    assert cache.stats().entries == 0


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(CHANGES)).flatmap(lambda f: st.tuples(st.just(f), CHANGES[f])),
    st.sampled_from([QUESTION, PARAPHRASE]),
)
def test_lookup_from_any_other_scope_never_hits(change, question: str) -> None:
    field, value = change
    other = msgspec.structs.replace(SCOPE, **{field: value})
    cache = AnswerCache(threshold=0.5)
    cache.put(entry(question, vector(1), partition=partition_key(SCOPE)))

    async def both():
        exact = await cache.lookup_exact(CacheKey.of(partition_key(other), question))
        return exact, await cache.lookup_semantic(
            CacheKey.of(partition_key(other), question, vector(1))
        )

    is_same = value == getattr(SCOPE, field)
    assert [hit is not None for hit in asyncio.run(both())] == [is_same, is_same]


# With a store.


@asynccontextmanager
async def replica(valkey: Valkey, name: str, **options):
    redis = valkey.client()
    store = Store(redis, name=name, breaker=Breaker("cache", open_s=0.3))
    cache = AnswerCache(threshold=0.92, store=store, **options)
    cache.start()
    try:
        yield cache
    finally:
        await cache.close()
        await redis.aclose()


def with_replicas(valkey: Valkey, scenario: Callable[..., Awaitable[None]]) -> None:
    async def main() -> None:
        async with replica(valkey, "one") as one, replica(valkey, "two") as two:
            await until(lambda: one.is_synced and two.is_synced)
            await scenario(one, two)

    asyncio.run(main())


def test_replica_sees_what_another_put_and_deleted(valkey: Valkey) -> None:
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


def test_replica_new_one_loads_what_is_there(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with replica(valkey, "one") as one:
            for n in range(120):
                one.put(entry(f"question {n}?", vector(n)))
            await one.reject(entry_id(P, QUESTION), PARAPHRASE)
            one.put(entry(QUESTION, vector(200)))
        async with replica(valkey, "two") as two:
            await until(lambda: two.is_synced)
            assert two.stats().entries == 121
            assert (await two.lookup_exact(CacheKey.of(P, "question 7?"))).kind == "exact"
            assert not two.may_share(entry_id(P, QUESTION), PARAPHRASE)

    asyncio.run(scenario())


def test_replica_delete_reaches_what_it_does_not_hold(valkey: Valkey) -> None:
    async def scenario() -> None:
        async with replica(valkey, "one") as one:
            for n in range(100):
                one.put(entry(f"question {n}?", vector(n), tenant=("acme", "other")[n % 2]))
        async with replica(valkey, "small", max_bytes=40_000) as small:
            await until(lambda: small.is_synced)
            assert small.stats().entries < 60
            assert (await small.lookup_exact(CacheKey.of(P, "question 0?"))).entry.tenant == "acme"
            assert await small.delete_tenant("acme") == 50
            assert await small.lookup_exact(CacheKey.of(P, "question 0?")) is None
            assert (await small.lookup_exact(CacheKey.of(P, "question 1?"))) is not None

    asyncio.run(scenario())


def test_replica_payload_gone_serves_the_next_candidate(valkey: Valkey) -> None:
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


def test_replica_gap_in_the_log_drops_what_the_store_lost(valkey: Valkey) -> None:
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


def test_replica_flushed_store_empties_the_copies(valkey: Valkey) -> None:
    async def scenario(one: AnswerCache, two: AnswerCache) -> None:
        one.put(entry(QUESTION, vector(1)))
        await until(lambda: two.stats().entries == 1)
        await one._copy.store._redis.flushall()
        await until(lambda: one.stats().entries == two.stats().entries == 0)

    with_replicas(valkey, scenario)


@pytest.mark.parametrize("harm", ["kill", "stop", "full"])
def test_lookups_under_store_trouble_answer_in_time(valkey: Valkey, harm: str) -> None:
    """Killed, stopped, full or started again under load: nothing raises, known answers stay."""

    async def scenario(one: AnswerCache, two: AnswerCache) -> None:
        one.put(entry(QUESTION, vector(1)))
        await until(lambda: two.stats().entries == 1)
        if harm == "kill":
            valkey.kill()
        elif harm == "stop":
            valkey.send(signal.SIGSTOP)
        else:
            await one._copy.store._redis.config_set("maxmemory-policy", "noeviction")
            await one._copy.store._redis.config_set("maxmemory", "1mb")
        await load(one, two, seconds=1.0)
        with pytest.raises(StoreDown):
            await one.delete_all()
        if harm == "kill":
            valkey.start()
        elif harm == "stop":
            valkey.send(signal.SIGCONT)
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


def test_answers_of_an_old_generation_never_come_back_under_load(valkey: Valkey) -> None:
    """Writers race a generation change; a reader of the new one never sees an old answer."""

    def scope(generation: str) -> str:
        return partition_key(msgspec.structs.replace(SCOPE, generation=generation))

    async def scenario(one: AnswerCache, two: AnswerCache) -> None:
        generation = 0

        async def write(cache: AnswerCache) -> None:
            for n in range(150):
                began_with = f"g{generation}"
                await asyncio.sleep(0.002)  # an answer takes its time
                fields = {"partition": scope(began_with), "generation": began_with}
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
