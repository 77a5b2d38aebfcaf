"""The log of one app: what it notes, forgets and tells of itself. `Service` opens and closes it."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from api.admission.caller import Caller
from api.answering.events import Done, Event
from api.errors import DatabaseDown, RagError, answer_for
from api.health import Check
from api.http.schemas import FeedbackRequest
from api.log import retention as forgetting
from api.log.database import Database
from api.log.retention import Forgotten
from api.log.rows import ended, judged
from api.log.tables import ANSWERS
from api.log.writer import Writer
from api.logs import logger
from api.settings.log import DatabaseSettings
from api.telemetry.metrics import Metrics
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

    async def noting(
        self, events: AsyncGenerator[Event], record: Record, caller: Caller
    ) -> AsyncGenerator[Event]:
        """Yield the events of an answer that is no request of its own, and note it at its end."""
        is_whole = False
        try:
            async with aclosing(events):
                async for event in events:
                    is_whole = isinstance(event, Done)
                    yield event
        except RagError as error:
            row = answer_for(error)
            record.outcome, record.error = row.outcome, row.code
            raise
        finally:
            if not (is_whole or record.outcome):
                record.outcome = "client_gone"
            self.note(record, caller)

    def judge(self, data: FeedbackRequest, caller: Caller) -> None:
        self.writer.append(judged(data, caller, keeps_text=self.keeps_text))

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
            return await forgetting.forget_tenant(self.database, tenant)

    async def forget_request(self, request_id: str) -> Forgotten:
        """Raises DatabaseDown."""
        async with self.writer.forgetting(lambda noted: noted.request_id == request_id):
            return await forgetting.forget_request(self.database, request_id)

    def check(self) -> Check:
        """Return the state as of the last write or ping, without asking."""
        writer = self.writer
        return Check("ok") if writer.is_up else Check("down", detail=writer.detail)

    async def keep_retention(self) -> None:
        """Delete what is too old, for ever."""
        while True:
            try:
                await forgetting.forget_before(self.database, time.time() - self._retention_s)
                await asyncio.sleep(RETENTION_EVERY_S)
            except DatabaseDown:
                await asyncio.sleep(RETENTION_RETRY_S)
            except Exception:  # a bug must not end all deletion
                logger.exception("retention failed")
                await asyncio.sleep(RETENTION_RETRY_S)


@asynccontextmanager
async def open_log(
    settings: DatabaseSettings, index_dir: str, metrics: Metrics
) -> AsyncIterator[QueryLog]:
    """Open the log without waiting for the database. Raises SettingsError."""
    database = Database(settings.database_url, index_dir)
    log = QueryLog(database, settings)
    metrics.registry.register(_LogCollector(log.writer))
    log.writer.start()
    retention = asyncio.create_task(log.keep_retention(), name="log retention")
    try:
        yield log
    finally:
        retention.cancel()
        await asyncio.gather(retention, return_exceptions=True)
        await log.writer.close(DRAIN_S)
        await database.close()


class _LogCollector(Collector):
    """What the writer counts itself, read when Prometheus asks."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def collect(self) -> Iterator[Metric]:
        writer = self._writer
        for name, text, count in (
            ("rag_log_written", "Rows of the log that the database took", writer.written),
            ("rag_log_dropped", "Rows of the log that it never got", writer.dropped),
        ):
            counter = CounterMetricFamily(name, text)
            counter.add_metric([], count)
            yield counter
        yield GaugeMetricFamily("rag_log_waiting", "Rows that wait", writer.n_waiting)
        yield GaugeMetricFamily("rag_database_up", "1 if it took the last batch", writer.is_up)
