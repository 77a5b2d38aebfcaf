"""Write the query log in one background task; answers never wait for it.

The queue is bounded and drops its oldest; what is dropped is counted. A database that is away is
waited for, rows in hand: a batch that may have been taken is sent again, for rows know their keys.
"""

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Dialect, Table, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from api.background import Background
from api.errors import DatabaseDown
from api.log.database import Database, RowsRefused
from api.log.rows import Noted
from api.log.tables import ANSWERS, FEEDBACK
from api.logs import logger

MAX_WAITING = 10_000
BATCH = 200
"""Some 4 ms of the event loop to convert."""
GATHER_S = 0.5
RETRY_S = 1.0
PING_S = 5.0

_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
_KEY = [column.name for column in FEEDBACK.primary_key]
_SAID = [column.name for column in FEEDBACK.columns if column.name not in _KEY]


class Writer:
    def __init__(self, database: Database, *, max_waiting: int = MAX_WAITING) -> None:
        self.written = 0
        self.dropped = 0
        """Never written: pushed out by newer ones, refused, or left at the end."""
        self.is_up = False
        self.detail = "not asked yet"
        """Why it is not up."""
        self._database = database
        self._max_waiting = max_waiting
        self._waiting: deque[Noted] = deque()
        self._in_hand: list[tuple[Noted, dict[str, Any]]] = []
        self._numbers = itertools.count()
        self._arrived = asyncio.Event()
        self._is_full = asyncio.Event()
        self._is_closing = False
        self._writing = asyncio.Lock()
        self._background = Background("log writer")

    @property
    def n_waiting(self) -> int:
        return len(self._waiting) + len(self._in_hand)

    def start(self) -> None:
        self._background.start(self._run())

    def append(self, noted: Noted) -> None:
        """Queue a row and return at once."""
        waiting = self._waiting
        if len(waiting) >= self._max_waiting:
            waiting.popleft()
            self.dropped += 1
        waiting.append(noted)
        if len(waiting) == 1:
            self._arrived.set()
        elif len(waiting) == BATCH:
            self._is_full.set()

    @contextlib.asynccontextmanager
    async def forgetting(self, is_unwanted: Callable[[Noted], bool]) -> AsyncIterator[None]:
        """Take what is unwanted out of the queue, and write nothing until the block ends."""
        async with self._writing:
            self._waiting = deque(row for row in self._waiting if not is_unwanted(row))
            self._in_hand = [held for held in self._in_hand if not is_unwanted(held[0])]
            yield

    async def close(self, deadline_s: float) -> None:
        """Write what waits, as far as the deadline allows."""
        self._is_closing = True
        self._arrived.set()
        self._is_full.set()
        await self._background.stop(grace_s=deadline_s)
        self.dropped += self.n_waiting
        self._waiting.clear()
        self._in_hand.clear()

    async def _run(self) -> None:
        while not (self._is_closing and not self.n_waiting):
            try:
                await self._gather()
                async with self._writing:
                    await self._write_batch()
                self._note_up()
            except DatabaseDown as down:
                self._note_down(down.message)
                await asyncio.sleep(RETRY_S)
            except Exception:  # a bug must not end all writing
                logger.exception("log writer failed")
                self.dropped += len(self._in_hand)
                self._in_hand.clear()
                await asyncio.sleep(RETRY_S)

    async def _gather(self) -> None:
        """Wait for rows: for a whole batch as long as the first of them may wait."""
        if self._in_hand or not self.is_up:
            return
        if not self._waiting and not self._is_closing:
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PING_S):
                    await self._arrived.wait()
        if self._waiting and len(self._waiting) < BATCH and not self._is_closing:
            self._is_full.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER_S):
                    await self._is_full.wait()

    async def _write_batch(self) -> None:
        while len(self._in_hand) < BATCH and self._waiting:
            noted = self._waiting.popleft()
            try:
                self._in_hand.append((noted, noted.row(next(self._numbers))))
            except Exception:  # a bug in one row must not cost the others
                logger.exception("a row of the log cannot be made")
                self.dropped += 1
        if not self._in_hand:
            await self._database.run(_ping)
            return
        batch = self._in_hand
        try:
            await self._database.run(lambda connection: _insert(connection, batch))
            self.written += len(batch)
        except RowsRefused as refused:
            self.dropped += len(batch)
            logger.error("log rows refused", extra={"facts": {"why": str(refused)}})
        self._in_hand = []

    def _note_up(self) -> None:
        if not self.is_up:
            logger.info("the database answers")
        self.is_up, self.detail = True, ""

    def _note_down(self, why: str) -> None:
        if self.is_up or why != self.detail:
            logger.warning("the database is down", extra={"facts": {"why": why}})
        self.is_up, self.detail = False, why


async def _ping(connection: AsyncConnection) -> None:
    await connection.execute(text("SELECT 1"))


async def _insert(
    connection: AsyncConnection, batch: Sequence[tuple[Noted, dict[str, Any]]]
) -> None:
    for table in (ANSWERS, FEEDBACK):
        statement, columns = _statement(table, connection.dialect)
        rows = [
            tuple(row[name] for name in columns) for noted, row in batch if noted.table is table
        ]
        if rows:
            await connection.exec_driver_sql(statement, rows)


@cache
def _statement(table: Table, dialect: Dialect) -> tuple[str, list[str]]:
    """Return the driver's text and the order of its columns.

    Executing the statement itself costs 20 us a row, to make parameters of what are parameters.
    """
    statement = _INSERTS[dialect.name](table)
    if table is FEEDBACK:
        newest = {name: statement.excluded[name] for name in _SAID}
        statement = statement.on_conflict_do_update(index_elements=_KEY, set_=newest)
    else:
        statement = statement.on_conflict_do_nothing()
    compiled = statement.compile(dialect=dialect)
    return str(compiled), compiled.positiontup
