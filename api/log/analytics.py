"""Reports on the query log over a window of time: outcomes, what the cache saved, engines.

The database counts; here its rows become the reports. Latencies are nearest-rank
percentiles, within 0.5 %.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Integer, Select, and_, case, cast, func, or_, select
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from api.log.percentiles import percentiles
from api.log.tables import ANSWERS, FEEDBACK, first_id

A = ANSWERS.c
FROM_CACHE = ("exact", "semantic", "coalesced")


class Window(msgspec.Struct, frozen=True, kw_only=True):
    since: float
    """Seconds since the epoch."""
    tenant: str | None = None
    """None: all."""

    def answers(self) -> ColumnElement[bool]:
        parts = [A.id >= first_id(self.since)]
        if self.tenant is not None:
            parts.append(A.tenant == self.tenant)
        return and_(*parts)

    def feedback(self) -> ColumnElement[bool]:
        parts = [FEEDBACK.c.at >= self.since]
        if self.tenant is not None:
            parts.append(FEEDBACK.c.tenant == self.tenant)
        return and_(*parts)


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds; null where nothing was measured."""

    p50: float | None = None
    p95: float | None = None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    since: float
    answers: int
    outcomes: dict[str, int]
    errors: dict[str, int]
    """By code."""
    caches: dict[str, int]
    """By kind, of those that are ok."""
    unanswered: int
    """Nothing in the documents matched; with LOG_TEXT on also where the model did not know."""
    prompt_tokens: int
    completion_tokens: int
    cost_eur: float
    latency_ms: Latency
    """Of answers that are ok, from the cache or not."""
    feedback: dict[str, int]
    """Given in the window, by rating."""
    experiments: list[str]
    """That answers took part in, by name."""


class Saving(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    answers: int
    eur: float
    seconds: float


class Savings(msgspec.Struct, frozen=True, kw_only=True):
    """Of each answer from the cache: what the mean engine answer of the window took, less what it
    took itself."""

    since: float
    eur: float
    seconds: float
    kinds: list[Saving]
    mean_engine_eur: float
    mean_engine_seconds: float
    engine_answers: int
    """0: there is nothing to compare with, and nothing counts as saved."""


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    engine: str
    model: str
    answers: int
    failed: int
    """Neither ok nor left by the client."""
    prompt_tokens: int
    completion_tokens: int
    cost_eur: float
    latency_ms: Latency
    first_token_ms: Latency


async def summary(connection: AsyncConnection, window: Window) -> Summary:
    counted = await rows_of(
        connection,
        select(
            A.outcome, A.error, A.cache, A.experiment,
            func.count().label("n"),
            count_of(A.unanswered).label("unanswered"),
            func.sum(A.prompt_tokens).label("prompt_tokens"),
            func.sum(A.completion_tokens).label("completion_tokens"),
            func.sum(A.cost_eur).label("cost_eur"),
        ).where(window.answers()).group_by(A.outcome, A.error, A.cache, A.experiment),
    )  # fmt: skip
    ratings = await rows_of(
        connection,
        select(FEEDBACK.c.rating, func.count().label("n"))
        .where(window.feedback())
        .group_by(FEEDBACK.c.rating),
    )
    which = and_(window.answers(), A.outcome == "ok")
    latency = await percentiles(connection, A.total_ms, which)
    return Summary(
        since=window.since,
        answers=_total(counted, "n"),
        outcomes=_by(counted, "outcome"),
        errors=_by([row for row in counted if row["error"]], "error"),
        caches=_by([row for row in counted if row["outcome"] == "ok"], "cache"),
        unanswered=_total(counted, "unanswered"),
        prompt_tokens=_total(counted, "prompt_tokens"),
        completion_tokens=_total(counted, "completion_tokens"),
        cost_eur=round(sum(row["cost_eur"] for row in counted), 6),
        latency_ms=latency_of(latency.get(())),
        feedback={row["rating"]: row["n"] for row in ratings},
        experiments=sorted({row["experiment"] for row in counted} - {""}),
    )


async def savings(connection: AsyncConnection, window: Window) -> Savings:
    # An answer that found no passages asked no engine.
    from_engine = and_(A.cache == "none", A.engine != "")
    rows = await rows_of(
        connection,
        select(
            A.cache,
            func.count().label("n"),
            func.avg(A.cost_eur).label("eur"),
            func.avg(A.total_ms).label("ms"),
        )
        .where(window.answers(), A.outcome == "ok", or_(from_engine, A.cache.in_(FROM_CACHE)))
        .group_by(A.cache),
    )
    by_kind = {row["cache"]: row for row in rows}
    engine = by_kind.pop("none", None)
    kinds = [_saving(by_kind[kind], engine) for kind in FROM_CACHE if kind in by_kind]
    return Savings(
        since=window.since,
        eur=round(sum(saving.eur for saving in kinds), 6),
        seconds=round(sum(saving.seconds for saving in kinds), 3),
        kinds=kinds,
        mean_engine_eur=round(engine["eur"], 8) if engine else 0.0,
        mean_engine_seconds=round(engine["ms"] / 1000, 4) if engine else 0.0,
        engine_answers=engine["n"] if engine else 0,
    )


def _saving(row: RowMapping, engine: RowMapping | None) -> Saving:
    eur = row["n"] * (engine["eur"] - row["eur"]) if engine else 0.0
    seconds = row["n"] * (engine["ms"] - row["ms"]) / 1000 if engine else 0.0
    return Saving(kind=row["cache"], answers=row["n"], eur=round(eur, 6), seconds=round(seconds, 3))


async def engines(connection: AsyncConnection, window: Window) -> list[EngineFacts]:
    """Return what engines made, most answers first; answers from the cache are not theirs."""
    which = and_(window.answers(), A.cache == "none", A.engine != "")
    by = (A.engine, A.model)
    rows = await rows_of(
        connection,
        select(
            *by,
            func.count().label("n"),
            count_of(A.outcome.not_in(("ok", "client_gone"))).label("failed"),
            func.sum(A.prompt_tokens).label("prompt_tokens"),
            func.sum(A.completion_tokens).label("completion_tokens"),
            func.sum(A.cost_eur).label("cost_eur"),
        ).where(which).group_by(*by).order_by(func.count().desc(), *by),
    )  # fmt: skip
    ok = and_(which, A.outcome == "ok")
    total = await percentiles(connection, A.total_ms, ok, by=by)
    first = await percentiles(
        connection, A.first_token_ms, and_(ok, A.first_token_ms.is_not(None)), by=by
    )
    return [
        EngineFacts(
            engine=row["engine"],
            model=row["model"],
            answers=row["n"],
            failed=row["failed"],
            prompt_tokens=row["prompt_tokens"],
            completion_tokens=row["completion_tokens"],
            cost_eur=round(row["cost_eur"], 6),
            latency_ms=latency_of(total.get((row["engine"], row["model"]))),
            first_token_ms=latency_of(first.get((row["engine"], row["model"]))),
        )
        for row in rows
    ]


def count_of(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(cast(case((condition, 1), else_=0), Integer)), 0)


async def rows_of(connection: AsyncConnection, query: Select[Any]) -> Sequence[RowMapping]:
    return (await connection.execute(query)).mappings().all()


def _total(rows: Sequence[RowMapping], column: str) -> int:
    return sum(int(row[column]) for row in rows)


def _by(rows: Sequence[RowMapping], column: str) -> dict[str, int]:
    """Return how many answers there are for each value, most first."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row[column]] = counts.get(row[column], 0) + row["n"]
    return dict(sorted(counts.items(), key=lambda count: (-count[1], count[0])))


def latency_of(found: Sequence[float | None] | None) -> Latency:
    p50, p95 = found or (None, None)
    return Latency(p50=p50, p95=p95)
