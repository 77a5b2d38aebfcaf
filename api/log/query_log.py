"""The query log of one app: what it notes, forgets and tells of itself."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from api.admission.caller import Caller
from api.background import Background
from api.errors import DatabaseDown
from api.health import Check
from api.log import retention
from api.log.database import Database
from api.log.retention import Forgotten
from api.log.rows import ended, judged
from api.log.tables import ANSWERS
from api.log.writer import Writer
from api.logs import logger
from api.settings.log import DatabaseSettings
from api.telemetry.record import Record

DRAIN_S = 3.0
RETENTION_EVERY_S = 3600.0
RETENTION_RETRY_S = 60.0


class QueryLog:
    def __init__(self, database: Database, settings: DatabaseSettings) -> None:
        self.database = database
        self.writer = Writer(database)
        self.keeps_text = settings.log_text == "on"
        self._retention_s = settings.log_retention_days * 86400

    def note(self, record: Record, caller: Caller | None) -> None:
        """Keep an answer that has ended; it is written within a second."""
        self.writer.append(ended(record, caller))

    def note_feedback(
        self,
        caller: Caller,
        request_id: str,
        rating: str,
        *,
        reason: str | None,
        correct_answer: str | None,
    ) -> None:
        """Keep what a caller says of an answer; its words only where LOG_TEXT is on."""
        self.writer.append(
            judged(
                caller,
                request_id,
                rating,
                reason=reason,
                correct_answer=correct_answer,
                keeps_text=self.keeps_text,
            )
        )

    async def knows(self, tenant: str, request_id: str) -> bool:
        """Whether a tenant's answer of that request is in the log; False while it cannot tell."""
        statement = select(ANSWERS.c.id).where(
            ANSWERS.c.request_id == request_id, ANSWERS.c.tenant == tenant
        )

        async def work(connection: AsyncConnection) -> bool:
            return (await connection.execute(statement.limit(1))).first() is not None

        try:
            return await self.database.run(work, within_s=1.0)
        except DatabaseDown:
            return False

    async def forget_tenant(self, tenant: str) -> Forgotten:
        """Raises DatabaseDown. What this process has yet to write is forgotten with the rest."""
        async with self.writer.forgetting(lambda noted: noted.tenant == tenant):
            return await retention.forget_tenant(self.database, tenant)

    async def forget_request(self, request_id: str) -> Forgotten:
        """Raises DatabaseDown."""
        async with self.writer.forgetting(lambda noted: noted.request_id == request_id):
            return await retention.forget_request(self.database, request_id)

    def check(self) -> Check:
        """Return the state as of the last write or ping, without asking."""
        writer = self.writer
        return Check("ok") if writer.is_up else Check("down", detail=writer.detail)

    async def keep_retention(self) -> None:
        """Delete what is too old, for ever."""
        while True:
            try:
                await retention.forget_before(self.database, time.time() - self._retention_s)
                await asyncio.sleep(RETENTION_EVERY_S)
            except DatabaseDown:
                await asyncio.sleep(RETENTION_RETRY_S)
            except Exception:  # a bug must not end all deletion
                logger.exception("retention failed")
                await asyncio.sleep(RETENTION_RETRY_S)


@asynccontextmanager
async def open_log(settings: DatabaseSettings, index_dir: str) -> AsyncIterator[QueryLog]:
    """Open the log without waiting for the database. Raises SettingsError."""
    database = Database(settings.database_url, index_dir)
    log = QueryLog(database, settings)
    log.writer.start()
    deleting = Background("log retention")
    deleting.start(log.keep_retention())
    try:
        yield log
    finally:
        await deleting.stop()
        await log.writer.close(DRAIN_S)
        await database.close()
