"""The rate-limit buckets a request counts in: by caller, route class, requests and tokens."""

from collections.abc import Mapping, Sequence

import msgspec

from api.admission.caller import Limit, LimitOverride, RouteClass
from api.admission.gcra import Allowance, Bucket
from api.admission.trip import TAG

Limits = Mapping[RouteClass, Limit]
"""A class that is not named is unlimited."""
UNLIMITED = Limit()


class Cost(msgspec.Struct, frozen=True):
    """What a request takes: a batch as many requests as it has questions.

    Tokens are an estimate, to be corrected once they are known.
    """

    requests: int = 1
    tokens: int = 0


ONE = Cost()
NO_COST = Cost(requests=0)
"""Takes nothing: a batch is counted once its body is read."""


def limits_of_key(common: Limits, overrides: Sequence[LimitOverride]) -> Limits:
    """Return the common limits with what a key has of its own."""
    limits = dict(common)
    for own in overrides:
        limit = limits.get(own.route_class, UNLIMITED)
        limits[own.route_class] = Limit(
            requests=limit.requests if own.requests is None else own.requests,
            tokens=limit.tokens if own.tokens is None else own.tokens,
        )
    return limits


def buckets_of(subject: str, route_class: RouteClass, limit: Limit, cost: Cost) -> list[Bucket]:
    """Return the buckets to take from; none where the class is unlimited.

    `subject` is `key:ID` or `ip:ADDRESS`; there are as many keys as subjects in a minute.
    """
    name = f"{TAG}:limit:{subject}:{route_class}"
    buckets = []
    if limit.requests:
        buckets.append(Bucket(f"{name}:requests", limit.requests, cost.requests, "requests"))
    if limit.tokens:
        buckets.append(Bucket(f"{name}:tokens", limit.tokens, cost.tokens, "tokens"))
    return buckets


def tightest(buckets: Sequence[Bucket], levels: Sequence[int], *, passed: bool) -> Allowance:
    """Return the bucket to tell of: that of the longest wait, else that with least left."""
    allowances = [
        Allowance.of(bucket, level, passed=passed)
        for bucket, level in zip(buckets, levels, strict=True)
    ]
    return min(allowances, key=lambda a: (-a.retry_after_s, a.remaining / a.limit))
