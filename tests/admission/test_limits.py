"""Which limits hold for whom."""

from api.admission.caller import Limit, LimitOverride, RouteClass
from api.admission.gcra import MINUTE_US
from api.admission.limits import (
    Cost,
    buckets_of,
    limits_of_key,
    tightest,
)


def test_limits_of_a_key_replace_what_it_names() -> None:
    common: dict[RouteClass, Limit] = {"query": Limit(100, 5000), "batch": Limit(20)}
    own = (
        LimitOverride(route_class="query", requests=7),
        LimitOverride(route_class="batch", requests=0),
        LimitOverride(route_class="search", tokens=9),
    )
    assert limits_of_key(common, own) == {
        "query": Limit(7, 5000), "batch": Limit(0), "search": Limit(0, 9),
    }  # fmt: skip
    assert limits_of_key(common, ()) == common


def test_buckets_are_apart_by_subject_class_and_unit() -> None:
    limit, cost = Limit(10, 100), Cost(2, 30)
    buckets = [
        bucket
        for subject in ("key:a", "ip:192.0.2.1")
        for name in ("query", "stream")
        for bucket in buckets_of(subject, name, limit, cost)
    ]
    assert len({bucket.key for bucket in buckets}) == 8
    assert [(b.unit, b.limit, b.cost) for b in buckets[:2]] == [
        ("requests", 10, 2),
        ("tokens", 100, 30),
    ]


def test_buckets_of_an_unlimited_class_are_none() -> None:
    assert buckets_of("key:a", "search", Limit(), Cost()) == []
    assert len(buckets_of("key:a", "search", Limit(0, 5), Cost())) == 1


def test_tightest_is_the_longest_wait_else_the_least_left() -> None:
    buckets = buckets_of("key:a", "query", Limit(10, 1000), Cost(1, 600))
    left = tightest(buckets, [8 * MINUTE_US, 100 * MINUTE_US], passed=True)
    assert (left.unit, left.remaining) == ("requests", 2)
    refused = tightest(buckets, [8 * MINUTE_US, 900 * MINUTE_US], passed=False)
    assert (refused.unit, round(refused.retry_after_s)) == ("tokens", 30)
