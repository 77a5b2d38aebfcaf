"""`ragrelay db` and `ragrelay log`: migrate the tables of the query log; export, delete rows.

Exit code 1 if the database does not answer.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click
import msgspec

from api.cli.options import parse_duration
from api.errors import DatabaseDown
from api.settings.env import Settings, SettingsError

if TYPE_CHECKING:
    from api.log.database import Database

_tenant = click.option("--tenant", help="Only of this tenant")


@click.group("db")
def db_group() -> None:
    """Migrate the tables of the query log."""


@db_group.command()
def upgrade() -> None:
    """Bring the tables to this version. With SQLite the server does so itself at its start."""
    if Settings.from_env().database.database_url == "off":
        click.echo("DATABASE_URL is off: there are no tables")
        return
    _run(lambda database: database.migrate())
    click.echo("the tables are those of this version")


@db_group.command()
@click.argument("revision")
def downgrade(revision: str) -> None:
    """Bring the tables back to REVISION; `base` drops them, with all rows."""
    _run(lambda database: database.migrate(revision))
    click.echo(f"the tables are those of {revision}")


@click.group("log")
def log_group() -> None:
    """Export and delete logged questions and answers."""


@log_group.command()
@click.option(
    "--since",
    default="30d",
    type=parse_duration,
    metavar="DURATION",
    show_default=True,
    help="How far back: 7d, 12h, 15m",
)
@_tenant
def export(since: float, tenant: str | None) -> None:
    """Print logged answers with their feedback, oldest first, one JSON object a line."""

    async def write(database: "Database") -> None:
        from api.log import reader as reading
        from api.log.analytics import Window

        window = Window(since=time.time() - since, tenant=tenant)
        async for answers in reading.export(database, window):
            for answer in answers:
                sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
        sys.stdout.buffer.flush()

    _run(write)


@log_group.command()
@_tenant
@click.option("--request-id", help="Only of this request")
def delete(tenant: str | None, request_id: str | None) -> None:
    """Delete the logged answers of a tenant or of a request, with their feedback.

    A running server writes its last rows within a second: delete once more after that, or use
    DELETE /analytics/log.
    """
    if (tenant is None) == (request_id is None):
        raise click.UsageError("name a --tenant or a --request-id")

    async def forget(database: "Database") -> None:
        from api.log.retention import forget_request, forget_tenant

        if tenant is not None:
            gone = await forget_tenant(database, tenant)
        else:
            gone = await forget_request(database, request_id or "")
        click.echo(f"deleted {gone.answers} answers and {gone.feedback} judgements")

    _run(forget)


def _run(work: Callable[["Database"], Awaitable[None]]) -> None:
    async def opened() -> None:
        async with _database() as database:
            await work(database)

    try:
        asyncio.run(opened())
    except DatabaseDown as down:
        raise click.ClickException(down.message) from down


@asynccontextmanager
async def _database() -> "AsyncIterator[Database]":
    from api.log.database import Database

    settings = Settings.from_env()
    if settings.database.database_url == "off":
        raise SettingsError("DATABASE_URL: off, there is no log")
    database = Database(settings.database.database_url, settings.retrieval.index_dir)
    try:
        yield database
    finally:
        await database.close()
