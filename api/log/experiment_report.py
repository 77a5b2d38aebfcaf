"""Report on an experiment from the query log: the variants side by side, with a verdict."""

import math
from itertools import combinations

import msgspec
from sqlalchemy import and_, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from api.log.analytics import A, Latency, Window, count_of, latency_of, rows_of
from api.log.percentiles import percentiles
from api.log.tables import FEEDBACK

Z95 = 1.959964
NO_DIFFERENCE = "no difference shown yet"


class Interval(msgspec.Struct, frozen=True):
    """Of a rate, with 95 % confidence."""

    low: float
    high: float


class VariantFacts(msgspec.Struct, frozen=True, kw_only=True):
    variant: str
    answers: int
    failed: int
    """Neither ok nor left by the client."""
    latency_ms: Latency
    """Of answers that are ok, from the cache or not, as is the cost."""
    mean_cost_eur: float | None
    up: int
    down: int
    down_rate: float | None
    """Of the feedback that was given; null without any, as is its interval."""
    down_rate_95: Interval | None


class ExperimentReport(msgspec.Struct, frozen=True, kw_only=True):
    experiment: str
    since: float
    variants: list[VariantFacts]
    """By name; those alone that answered in the window."""
    verdict: str
    """By feedback alone."""
    figures: str
    """Latency and cost in words; nothing is concluded from them."""


async def report(connection: AsyncConnection, window: Window, name: str) -> ExperimentReport:
    which = and_(window.answers(), A.experiment == name)
    ok = and_(which, A.outcome == "ok")
    counted = await rows_of(
        connection,
        select(
            A.variant,
            func.count().label("n"),
            count_of(A.outcome.not_in(("ok", "client_gone"))).label("failed"),
        ).where(which).group_by(A.variant).order_by(A.variant),
    )  # fmt: skip
    costs = await rows_of(
        connection,
        select(A.variant, func.avg(A.cost_eur).label("eur")).where(ok).group_by(A.variant),
    )
    cost = {row["variant"]: row["eur"] for row in costs}
    latency = await percentiles(connection, A.total_ms, ok, by=(A.variant,))
    votes = await _votes(connection, window, name)
    variants = [
        _facts(
            variant=row["variant"],
            answers=row["n"],
            failed=row["failed"],
            latency_ms=latency_of(latency.get((row["variant"],))),
            mean_cost_eur=cost.get(row["variant"]),
            up=votes.get((row["variant"], "up"), 0),
            down=votes.get((row["variant"], "down"), 0),
        )
        for row in counted
    ]
    return ExperimentReport(
        experiment=name,
        since=window.since,
        variants=variants,
        verdict=verdict(variants),
        figures="; ".join(map(_figures, variants)),
    )


async def _votes(
    connection: AsyncConnection, window: Window, name: str
) -> dict[tuple[str, str], int]:
    """Return how many there are by variant and rating, given to answers of the window.

    A client may use a request id twice: its judgement counts once a variant.
    """
    which = and_(window.answers(), A.experiment == name)
    asked = select(A.tenant, A.request_id, A.variant).where(which).distinct().subquery()
    judged = and_(FEEDBACK.c.tenant == asked.c.tenant, FEEDBACK.c.request_id == asked.c.request_id)
    rows = await rows_of(
        connection,
        select(asked.c.variant, FEEDBACK.c.rating, func.count().label("n"))
        .select_from(asked.join(FEEDBACK, judged))
        .group_by(asked.c.variant, FEEDBACK.c.rating),
    )
    return {(row["variant"], row["rating"]): row["n"] for row in rows}


def _facts(
    *,
    variant: str,
    answers: int,
    failed: int,
    latency_ms: Latency,
    mean_cost_eur: float | None,
    up: int,
    down: int,
) -> VariantFacts:
    n = up + down
    return VariantFacts(
        variant=variant,
        answers=answers,
        failed=failed,
        latency_ms=latency_ms,
        mean_cost_eur=None if mean_cost_eur is None else round(mean_cost_eur, 8),
        up=up,
        down=down,
        down_rate=round(down / n, 4) if n else None,
        down_rate_95=wilson(down, n) if n else None,
    )


def wilson(k: int, n: int) -> Interval:
    """Wilson's interval of k of n (1927, https://doi.org/10.1080/01621459.1927.10502953)."""
    share, z2 = k / n, Z95 * Z95
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Interval(round(max(0.0, middle - half), 4), round(min(1.0, middle + half), 4))


def verdict(variants: list[VariantFacts]) -> str:
    """Name the better of each two whose intervals do not meet."""
    told = []
    for first, second in combinations(variants, 2):
        if first.down_rate_95 is None or second.down_rate_95 is None:
            continue
        if first.down_rate_95.high < second.down_rate_95.low:
            told.append(_better(first, second))
        elif second.down_rate_95.high < first.down_rate_95.low:
            told.append(_better(second, first))
    return "; ".join(told) or NO_DIFFERENCE


def _better(good: VariantFacts, bad: VariantFacts) -> str:
    return (
        f"{good.variant} is better than {bad.variant}: "
        f"{good.down_rate:.1%} against {bad.down_rate:.1%} of its feedback is down"
    )


def _figures(facts: VariantFacts) -> str:
    if facts.mean_cost_eur is None:
        return f"{facts.variant}: no answer is ok"
    return (
        f"{facts.variant}: p50 {facts.latency_ms.p50:.0f} ms, p95 {facts.latency_ms.p95:.0f} ms, "
        f"{facts.mean_cost_eur:.6f} EUR an answer"
    )
