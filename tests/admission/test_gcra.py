"""Limits count exactly: ours in Lua and in Python against the textbook's algorithm."""

import asyncio
from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.admission import trip
from api.admission.gcra import LOCAL_BUCKETS, MINUTE_US, Allowance, Bucket, LocalBuckets
from api.stores.calls import RedisCalls
from tests.admission.doors import with_calls
from tests.admission.reference import Reference
from tests.support.servers import RedisServer

START_US = 1_750_000_000_000_000

limits = st.one_of(st.integers(1, 130), st.sampled_from([7745, 9_999, 999_983, 10_000_000]))
steps = st.one_of(st.integers(0, 2_000_000), st.integers(0, 200 * MINUTE_US))


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, list[int]]]]:
    """One to three limits; then steps of time with a cost for each of them."""
    chosen = draw(st.lists(limits, min_size=1, max_size=3))
    costs = [st.sampled_from([0, 1, 1, 2, limit // 2, limit, limit + 5]) for limit in chosen]
    return chosen, draw(st.lists(st.tuples(steps, st.tuples(*costs).map(list)), max_size=40))


def buckets_for(chosen: Sequence[int], costs: Sequence[int]) -> list[Bucket]:
    return [
        Bucket(f"{trip.TAG}:test:{i}", limit, cost)
        for i, (limit, cost) in enumerate(zip(chosen, costs, strict=True))
    ]


def expect(
    references: Sequence[Reference], buckets: Sequence[Bucket], now_us: int
) -> tuple[bool, list[Allowance]]:
    """What the textbook says of one request, counted there if it passes."""
    waits = [ref.wait(bucket.cost, now_us) for ref, bucket in zip(references, buckets, strict=True)]
    passed = not any(waits)
    if passed:
        for reference, bucket in zip(references, buckets, strict=True):
            reference.add(bucket.cost, now_us)
    allowances = [
        Allowance(
            unit="requests",
            limit=reference.limit,
            remaining=reference.remaining(now_us),
            reset_s=float(max(reference.arrival - now_us, Fraction(0))) / 1e6,
            retry_after_s=float(wait) / 1e6,
        )
        for reference, wait in zip(references, waits, strict=True)
    ]
    return passed, allowances


def assert_same(
    expected: tuple[bool, list[Allowance]], buckets: Sequence[Bucket], passed: bool, levels: list
) -> None:
    assert passed == expected[0]
    for want, bucket, level in zip(expected[1], buckets, levels, strict=True):
        got = Allowance.of(bucket, level, passed=passed)
        assert (got.limit, got.remaining) == (want.limit, want.remaining)
        assert got.reset_s == pytest.approx(want.reset_s, abs=1e-6)
        assert got.retry_after_s == pytest.approx(want.retry_after_s, abs=1e-6)


@given(histories())
def test_local_buckets_any_history_are_the_textbooks(history) -> None:
    chosen, requests = history
    local, references, now_us = LocalBuckets(), [Reference(limit) for limit in chosen], START_US
    for step, costs in requests:
        now_us += step
        buckets = buckets_for(chosen, costs)
        expected = expect(references, buckets, now_us)
        passed, levels = local.take(buckets, now_us)
        assert_same(expected, buckets, passed, levels)


@given(histories())
@settings(deadline=None, max_examples=60)
def test_trip_any_history_is_the_textbooks(lasting: RedisServer, history) -> None:
    async def scenario(calls: RedisCalls) -> None:
        await calls.redis.flushall()
        chosen, requests = history
        references, now_us = [Reference(limit) for limit in chosen], START_US
        for step, costs in requests:
            now_us += step
            buckets = buckets_for(chosen, costs)
            expected = expect(references, buckets, now_us)
            taken = await trip.take(calls, buckets, now_us=now_us)
            assert_same(expected, buckets, taken.passed, taken.levels)

    asyncio.run(with_calls(lasting, scenario))


@given(st.integers(1, 1000), st.lists(st.tuples(steps, st.integers(-2000, 9000)), max_size=30))
@settings(deadline=None, max_examples=40)
def test_trip_corrections_are_the_same_in_lua_and_python(
    lasting: RedisServer, limit: int, corrections: list[tuple[int, int]]
) -> None:
    async def scenario(calls: RedisCalls) -> None:
        await calls.redis.flushall()
        local, now_us, look = LocalBuckets(), START_US, Bucket(f"{trip.TAG}:t", limit, 0)
        for step, amount in corrections:
            now_us += step
            level = local.add(look, amount, now_us)
            assert await trip.add(calls, look, amount, now_us=now_us)
            taken = await trip.take(calls, [look], now_us=now_us)
            assert taken.levels == [level]
            assert 0 <= level <= 10 * look.capacity

    asyncio.run(with_calls(lasting, scenario))


def test_bucket_burst_is_the_whole_minute_and_then_an_even_rate() -> None:
    local, bucket = LocalBuckets(), Bucket("b", 7, 1)
    assert [local.take([bucket], 0)[0] for _ in range(8)] == [True] * 7 + [False]
    assert not local.take([bucket], MINUTE_US // 7)[0]  # 8571428.57… us
    assert local.take([bucket], MINUTE_US // 7 + 1)[0]


def test_bucket_cost_above_the_limit_passes_an_empty_bucket_and_leaves_a_debt() -> None:
    local = LocalBuckets()
    batch, one = Bucket("b", 20, 32), Bucket("b", 20, 1)
    passed, (level,) = local.take([batch], 0)
    assert (passed, level) == (True, 32 * MINUTE_US)
    passed, (level,) = local.take([one], 0)
    assert not passed
    assert Allowance.of(one, level, passed=False).retry_after_s == pytest.approx(39.0)
    assert not local.take([one], 38_999_999)[0]
    assert local.take([one], 39_000_000)[0]


def test_trip_clock_set_back_neither_frees_nor_locks(either: RedisServer) -> None:
    async def scenario(calls: RedisCalls) -> None:
        local, bucket = LocalBuckets(), Bucket(f"{trip.TAG}:t", 2, 1)
        back_us = START_US - 60 * MINUTE_US
        for now_us, passes in (
            (START_US, True),
            (START_US, True),
            (back_us, False),
            (back_us + MINUTE_US // 2 - 1, False),
            (back_us + MINUTE_US // 2, True),
        ):
            taken = await trip.take(calls, [bucket], now_us=now_us)
            assert (taken.passed, taken.levels) == local.take([bucket], now_us)
            assert taken.passed == passes

    asyncio.run(with_calls(either, scenario))


def test_local_buckets_are_bounded() -> None:
    local = LocalBuckets(max_buckets=100)
    for i in range(1000):
        local.take([Bucket(f"b{i}", 5, 1)], 0)
    assert len(local) == 100
    assert LOCAL_BUCKETS == 10_000


def test_allowance_headers_round_up_the_wait() -> None:
    bucket = Bucket("b", 100, 1)
    allowance = Allowance.of(bucket, 3 * MINUTE_US, passed=True)
    assert allowance.headers() == {
        "RateLimit-Limit": "100",
        "RateLimit-Remaining": "97",
        "RateLimit-Reset": "2",
    }
