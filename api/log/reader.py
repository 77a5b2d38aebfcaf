"""Read the query log: a page of answers, the questions that fail most, an export."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import and_, func, or_, select
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from api.log.analytics import Window
from api.log.database import Database
from api.log.tables import ANSWERS, FEEDBACK

A = ANSWERS.c
EXPORT_BATCH = 500


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    key_id: str
    at: float
    rating: str
    reason: str | None
    correct_answer: str | None


class LoggedAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the log, with what was said of it; the same in the API and in an export."""

    id: str
    """To page on with; 63 bits are more than JavaScript's numbers hold."""
    at: float
    request_id: str
    tenant: str
    key_id: str
    endpoint: str
    outcome: str
    error: str
    unanswered: bool
    engine: str
    model: str
    prompt_version: str
    experiment: str
    variant: str
    generation: str
    cache: str
    total_ms: float
    first_token_ms: float | None
    stages_ms: dict[str, float]
    prompt_tokens: int
    completion_tokens: int
    cost_eur: float
    passage_ids: list[str]
    question: str | None
    """null unless LOG_TEXT was on."""
    answer: str | None
    feedback: list[Judgement]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    outcome: str | None = None
    unanswered: bool | None = None
    before_id: int | None = None


class FailingQuestion(msgspec.Struct, frozen=True, kw_only=True):
    question: str
    asked: int
    """How often it failed or found nothing."""
    unanswered: int
    last_at: float


async def newest(
    connection: AsyncConnection, window: Window, wanted: Wanted, limit: int
) -> list[LoggedAnswer]:
    """Return answers, newest first."""
    query = select(ANSWERS).where(window.answers()).order_by(A.id.desc()).limit(limit)
    if wanted.outcome is not None:
        query = query.where(A.outcome == wanted.outcome)
    if wanted.unanswered is not None:
        query = query.where(A.unanswered.is_(wanted.unanswered))
    if wanted.before_id is not None:
        query = query.where(A.id < wanted.before_id)
    return await _judged(connection, (await connection.execute(query)).mappings().all())


async def failing(
    connection: AsyncConnection, window: Window, *, limit: int, offset: int
) -> list[FailingQuestion]:
    """Return the questions that failed or found nothing, most often first, as they were written."""
    n, last = func.count(), func.max(A.at)
    which = and_(
        window.answers(),
        A.question.is_not(None),
        or_(A.unanswered.is_(True), A.outcome.not_in(("ok", "client_gone"))),
    )
    query = (
        select(A.question, n.label("n"), n.filter(A.unanswered.is_(True)).label("unanswered"),
               last.label("last"))
        .where(which).group_by(A.question)
        .order_by(n.desc(), last.desc(), A.question).limit(limit).offset(offset)
    )  # fmt: skip
    return [
        FailingQuestion(
            question=row.question, asked=row.n, unanswered=row.unanswered, last_at=row.last
        )
        for row in await connection.execute(query)
    ]


async def export(database: Database, window: Window) -> AsyncIterator[list[LoggedAnswer]]:
    """Yield batches of answers, oldest first. Raises DatabaseDown."""
    after = -1
    while True:
        query = (
            select(ANSWERS).where(window.answers(), A.id > after).order_by(A.id).limit(EXPORT_BATCH)
        )

        async def work(connection: AsyncConnection, query: Any = query) -> list[LoggedAnswer]:
            return await _judged(connection, (await connection.execute(query)).mappings().all())

        answers = await database.run(work)
        if not answers:
            return
        yield answers
        after = int(answers[-1].id)


async def _judged(connection: AsyncConnection, rows: Sequence[RowMapping]) -> list[LoggedAnswer]:
    ids = {row["request_id"] for row in rows}
    said: dict[tuple[str, str], list[Judgement]] = {}
    if ids:
        query = select(FEEDBACK).where(FEEDBACK.c.request_id.in_(ids)).order_by(FEEDBACK.c.at)
        for row in (await connection.execute(query)).mappings():
            fields = {name: row[name] for name in Judgement.__struct_fields__}
            said.setdefault((row["tenant"], row["request_id"]), []).append(Judgement(**fields))
    return [
        LoggedAnswer(
            **{**row, "id": str(row["id"])},
            feedback=said.get((row["tenant"], row["request_id"]), []),
        )
        for row in rows
    ]
