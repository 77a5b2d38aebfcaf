"""Percentiles by nearest rank: PostgreSQL has them, SQLite counts rows in their order."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Float, Integer, Select, case, cast, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

SHARES = (0.5, 0.95)

Column = ColumnElement[Any]


async def percentiles(
    connection: AsyncConnection, value: Column, which: Column, *, by: Sequence[Column] = ()
) -> dict[tuple[Any, ...], tuple[float | None, ...]]:
    """Return the values at SHARES for each group of rows; () is the group of all."""
    query = _QUERIES[connection.dialect.name](value, which, by)
    rows = (await connection.execute(query)).all()
    return {tuple(row[: len(by)]): tuple(row[len(by) :]) for row in rows}


def _built_in(value: Column, which: Column, by: Sequence[Column]) -> Select[Any]:
    shares = [func.percentile_disc(share).within_group(value.asc()) for share in SHARES]
    return select(*by, *shares).where(which).group_by(*by)


def _by_rank(value: Column, which: Column, by: Sequence[Column]) -> Select[Any]:
    """The smallest value that so large a share of the rows does not exceed."""
    partition = list(by) or None
    ranked = (
        select(
            *by,
            value.label("value"),
            func.row_number().over(partition_by=partition, order_by=value).label("rank"),
            func.count().over(partition_by=partition).label("n"),
        )
        .where(which)
        .subquery()
    )
    n = cast(ranked.c.n, Float)
    shares = [
        func.min(case((cast(ranked.c.rank, Integer) >= n * share, ranked.c.value)))
        for share in SHARES
    ]
    groups = [ranked.c[column.name] for column in by]
    return select(*groups, *shares).group_by(*groups)


_QUERIES = {"postgresql": _built_in, "sqlite": _by_rank}
