"""Migrate the query log's tables to this version, or back, with Alembic and without its ini file.

Runs in a thread with an event loop of its own: importing Alembic and making tables would hold up
whoever waits for an answer.
"""

import asyncio
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import URL, Connection
from sqlalchemy.ext.asyncio import create_async_engine

if TYPE_CHECKING:
    from alembic.config import Config

ALONE = {
    "postgresql": "SELECT pg_advisory_xact_lock(7236837214)",  # the number is ours alone
    "sqlite": "BEGIN IMMEDIATE",
}
"""Replicas that start together make the tables one after the other."""

HERE = Path(__file__).parent / "migrations"


class UnknownRevision(Exception):
    """The tables, or who asks, name a revision that this version of ragrelay does not know."""


def _config() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(HERE).replace("%", "%%"))
    config.set_main_option("path_separator", "os")  # else Alembic warns
    return config


@cache
def head() -> str:
    """Return the revision that this version of ragrelay reads and writes."""
    from alembic.script import ScriptDirectory

    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise RuntimeError("there are no migrations. This is a bug.")
    return revision


def migrate(url: URL, revision: str = "head", **options: Any) -> None:
    """Bring the tables to a revision, whichever way it lies.

    Blocks; not to be called on an event loop. Raises UnknownRevision, and what the driver raises.
    """
    asyncio.run(_migrate(url, revision, options))


async def _migrate(url: URL, revision: str, options: dict[str, Any]) -> None:
    engine = create_async_engine(url, **options)
    try:
        async with engine.begin() as connection:
            await connection.exec_driver_sql(ALONE[engine.dialect.name])
            await connection.run_sync(_run, revision)
    finally:
        await engine.dispose()


def _run(connection: Connection, revision: str) -> None:
    from alembic import command
    from alembic.util import CommandError

    config = _config()
    config.attributes["connection"] = connection
    try:
        (command.upgrade if revision == "head" else command.downgrade)(config, revision)
    except CommandError as exc:
        raise UnknownRevision(str(exc)) from exc
