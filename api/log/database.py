"""The query log's database: open it, check its tables, run queries within a time limit.

Its errors end here: whoever asks hears `DatabaseDown` or `RowsRefused`. SQLite is brought to this
version's tables by itself; PostgreSQL by `ragrelay db upgrade`, and is left alone until then.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy import event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from api.errors import DatabaseDown
from api.log.migrating import UnknownRevision, head, migrate
from api.settings.env import SettingsError

FILE_NAME = "ragrelay.sqlite"
CONNECT_S = 3.0
LOCKED_S = 2.0
"""How long SQLite waits for another process that writes."""
WITHIN_S = 5.0
CONNECTIONS = 4
CLOSE_S = 2.0

_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgres": "postgresql+asyncpg",
    "postgresql": "postgresql+asyncpg",
}
_VERSION = text("SELECT version_num FROM alembic_version")

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]


class RowsRefused(Exception):
    """The database works and does not take these rows."""


def url_of(setting: str, index_dir: str) -> URL:
    """Return what SQLAlchemy connects to. Raises SettingsError."""
    if not setting:
        path = Path(index_dir).absolute() / FILE_NAME
        return URL.create("sqlite+aiosqlite", database=str(path))
    try:
        url = make_url(setting)
        driver = _DRIVERS[url.drivername]
    except (ArgumentError, KeyError, ValueError):
        raise SettingsError(
            "DATABASE_URL: write postgresql://USER:PASSWORD@HOST/NAME, sqlite:///FILE or off"
        ) from None
    return url.set(drivername=driver)


def _options(url: URL) -> dict[str, Any]:
    timeouts = {"timeout": LOCKED_S} if _is_file(url) else {"timeout": CONNECT_S}
    return {
        "connect_args": timeouts,
        "hide_parameters": True,  # they hold what users wrote, and errors are logged
        "json_serializer": lambda value: msgspec.json.encode(value).decode(),
        "json_deserializer": msgspec.json.decode,
    }


def _is_file(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _open(url: URL) -> AsyncEngine:
    """Return an engine that has not connected yet. Raises SettingsError."""
    pool = {"pool_size": CONNECTIONS, "max_overflow": 0, "pool_timeout": CONNECT_S}
    try:
        engine = create_async_engine(url, **_options(url), **pool)
    except ModuleNotFoundError:
        raise SettingsError(
            "DATABASE_URL: PostgreSQL needs asyncpg: pip install 'ragrelay[postgres]'"
        ) from None
    prepare = _prepare_file if _is_file(url) else _prepare_server
    event.listen(engine.sync_engine, "connect", prepare)
    return engine


def _prepare_file(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")  # with WAL a crash loses rows, never the file
    cursor.close()


def _prepare_server(connection: Any, _: object) -> None:
    # A plan for any window counts a million rows without parallel workers: 2.9 s for 0.7 s.
    statement = "SET plan_cache_mode = force_custom_plan"
    connection.run_async(lambda own: own.execute(statement))


def _foreign_errors(url: URL) -> tuple[type[Exception], ...]:
    """asyncpg raises its own while it connects, before SQLAlchemy is there to translate."""
    if _is_file(url):
        return (SQLAlchemyError, OSError, TimeoutError)
    import asyncpg

    return (
        SQLAlchemyError, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError,
    )  # fmt: skip


class Database:
    def __init__(self, setting: str, index_dir: str) -> None:
        """Connects to nothing yet. Raises SettingsError."""
        self._url = url_of(setting, index_dir)
        self.engine = _open(self._url)
        self._foreign = _foreign_errors(self._url)
        self._is_ready = False
        self._preparing = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, work: Work[T], *, within_s: float = WITHIN_S) -> T:
        """Do `work` in a transaction of its own. Raises DatabaseDown or RowsRefused.

        A server that is frozen is cut off: its transaction may have been taken all the same.
        """
        try:
            if not self._is_ready:
                await self._prepare()
            return await self._bounded(work, within_s)
        except (IntegrityError, DataError) as exc:
            raise RowsRefused(_name(exc)) from exc
        except self._foreign as exc:
            self._is_ready = False
            raise DatabaseDown(f"the database does not answer ({_name(exc)})") from exc

    async def migrate(self, revision: str = "head") -> None:
        """Bring the tables to a revision. Raises DatabaseDown."""
        if _is_file(self._url) and self._url.database:
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
        try:
            await asyncio.to_thread(migrate, self._url, revision, **_options(self._url))
        except UnknownRevision as exc:
            raise DatabaseDown(f"the tables are of another version of ragrelay: {exc}") from exc
        except self._foreign as exc:
            raise DatabaseDown(f"the tables cannot be made ({_name(exc)})") from exc

    async def close(self) -> None:
        """Hang up, within a bound."""
        closing = asyncio.create_task(self.engine.dispose())
        self._running.add(closing)
        await asyncio.wait(self._running, timeout=CLOSE_S)
        for task in self._running:
            task.cancel()

    async def _prepare(self) -> None:
        """See that the tables are those of this version; make them where that is ours to do."""
        async with self._preparing:
            if self._is_ready:
                return
            wanted = await asyncio.to_thread(head)
            if _is_file(self._url):
                await self.migrate()
            found = await self._bounded(_version, WITHIN_S)
            if found != wanted:
                raise DatabaseDown(
                    f"the database's tables are of version {found or 'none'}, not {wanted}: "
                    "run `ragrelay db upgrade`"
                )
            self._is_ready = True

    async def _bounded(self, work: Work[T], within_s: float) -> T:
        """A cancelled query waits for the server to agree, so a frozen one is hung up on."""
        connections: list[Any] = []

        async def transact() -> T:
            async with self.engine.begin() as connection:
                raw = await connection.get_raw_connection()
                connections.append(raw.driver_connection)
                return await work(connection)

        task = asyncio.create_task(transact())
        self._running.add(task)
        task.add_done_callback(self._ended)
        try:
            done, _ = await asyncio.wait({task}, timeout=within_s)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not done:
            task.cancel()
            for connection in connections:
                if hasattr(connection, "terminate"):
                    connection.terminate()
            raise TimeoutError
        return task.result()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # else asyncio logs one that came after we hung up


async def _version(connection: AsyncConnection) -> str | None:
    exists = await connection.run_sync(lambda sync: sync.dialect.has_table(sync, "alembic_version"))
    return (await connection.execute(_VERSION)).scalar() if exists else None


def _name(exc: BaseException) -> str:
    """What went wrong, without the text of the statement or the address."""
    original = getattr(exc, "orig", None) or exc
    return re.sub(r"[^A-Za-z]", "", type(original).__name__)
