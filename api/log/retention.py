"""Delete rows of the query log: too old ones, those of a tenant, those of a request.

In small batches, each its own transaction, so that writing goes on between them.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Table, delete, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from api.log.database import Database
from api.log.tables import ANSWERS, FEEDBACK, first_id

BATCH = 1000
BREATH_S = 0.02
"""Between two batches, for others who write."""


class Forgotten(msgspec.Struct, frozen=True):
    """How many rows are gone."""

    answers: int
    feedback: int


async def forget_before(database: Database, at: float) -> Forgotten:
    return Forgotten(
        await _delete(database, ANSWERS, ANSWERS.c.id < first_id(at)),
        await _delete(database, FEEDBACK, FEEDBACK.c.at < at),
    )


async def forget_tenant(database: Database, tenant: str) -> Forgotten:
    return Forgotten(
        await _delete(database, ANSWERS, ANSWERS.c.tenant == tenant),
        await _delete(database, FEEDBACK, FEEDBACK.c.tenant == tenant),
    )


async def forget_request(database: Database, request_id: str) -> Forgotten:
    return Forgotten(
        await _delete(database, ANSWERS, ANSWERS.c.request_id == request_id),
        await _delete(database, FEEDBACK, FEEDBACK.c.request_id == request_id),
    )


async def _delete(database: Database, table: Table, which: ColumnElement[bool]) -> int:
    """Return how many rows are gone. Raises DatabaseDown; what was deleted by then stays so."""
    key: Sequence[ColumnElement[Any]] = list(table.primary_key)
    batch = select(*key).where(which).limit(BATCH)
    statement = delete(table).where(tuple_(*key).in_(batch))

    async def work(connection: AsyncConnection) -> int:
        return int((await connection.execute(statement)).rowcount)

    n_deleted = 0
    while True:
        n = await database.run(work)
        n_deleted += n
        if n < BATCH:
            return n_deleted
        await asyncio.sleep(BREATH_S)
