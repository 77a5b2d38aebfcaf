"""Percentiles by nearest rank over times counted by bucket, so that no row is sorted.

A bucket holds what agrees in its first two or three digits: what is told is within 0.5 % of a
time that was measured, and within 0.005 below ten.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Float, case, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

SHARES = (0.5, 0.95)
STEPS = ((10.0, 100.0), (100.0, 10.0), (1_000.0, 1.0), (10_000.0, 0.1), (100_000.0, 0.01))
"""Below so much, so many buckets a unit."""
LAST_STEP = 0.001

Column = ColumnElement[Any]


async def percentiles(
    connection: AsyncConnection, value: Column, which: Column, *, by: Sequence[Column] = ()
) -> dict[tuple[Any, ...], tuple[float | None, ...]]:
    """Return the values at SHARES for each group of rows; () is the group of all."""
    bucket = _bucket(value).label("value")
    counted = select(*by, bucket, func.count().label("n")).where(which).group_by(*by, bucket)
    buckets = counted.subquery()
    groups = [buckets.c[column.name] for column in by]
    upto = func.sum(buckets.c.n).over(partition_by=groups or None, order_by=buckets.c.value)
    total = func.sum(buckets.c.n).over(partition_by=groups or None)
    ranked = select(
        *groups,
        buckets.c.value,
        cast(upto, Float).label("upto"),
        cast(total, Float).label("total"),
    ).subquery()
    shares = [
        func.min(case((ranked.c.upto >= ranked.c.total * share, ranked.c.value)))
        for share in SHARES
    ]
    keys = [ranked.c[column.name] for column in by]
    rows = (await connection.execute(select(*keys, *shares).group_by(*keys))).all()
    return {tuple(row[: len(by)]): tuple(row[len(by) :]) for row in rows}


def _bucket(value: Column) -> Column:
    """The middle of the value's bucket."""
    steps = [(value < below, func.round(value * per) / per) for below, per in STEPS]
    return case(*steps, else_=func.round(value * LAST_STEP) / LAST_STEP)
