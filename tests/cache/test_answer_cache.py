"""The answer cache in memory: lookups, vetoes, deletion, bounds."""

import asyncio

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.cache.answer_cache import AnswerCache
from api.cache.entries import CacheKey, entry_id
from api.cache.partition import partition_key
from tests.cache.entries import CHANGES, PARAPHRASE, QUESTION, SCOPE, TRAP, P, entry, vector
from tests.support.waiting import until


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


def test_expired_entries_are_forgotten_in_the_background() -> None:
    now = 1000.0

    async def scenario() -> None:
        nonlocal now
        cache = AnswerCache(threshold=0.9, clock=lambda: now, sweep_every_s=0.01)
        for n, ttl_s in enumerate((10.0, 10.0, 100.0)):
            cache.put(entry(f"{QUESTION} {n}", vector(n), created_at=now, ttl_s=ttl_s))
        held = cache.stats()
        cache.start()
        await asyncio.sleep(0.05)
        assert cache.stats() == held
        now = 1050.0
        await until(lambda: cache.stats().entries == 1)
        assert cache.stats().size_bytes < held.size_bytes
        assert cache.stats().evicted == 0
        await cache.close()

    asyncio.run(scenario())


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
