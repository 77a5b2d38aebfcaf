"""Tables up and down, and the service that leaves tables of another version alone."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import inspect, text

from api.errors import DatabaseDown
from api.log.database import Database
from api.log.migrating import ALONE
from api.log.tables import METADATA


def tables(on_database: Any) -> set[str]:
    async def look(database: Any) -> set[str]:
        async with database.engine.connect() as connection:
            return set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))

    return on_database(look)


def test_migrations_up_and_down_and_up(on_database: Any) -> None:
    on_database(lambda database: database.migrate())
    assert tables(on_database) == {"alembic_version", "answers", "feedback"}
    on_database(lambda database: database.migrate("base"))
    assert tables(on_database) == {"alembic_version"}
    on_database(lambda database: database.migrate())
    on_database(lambda database: database.migrate())
    assert tables(on_database) == {"alembic_version", "answers", "feedback"}


def test_migrations_make_the_tables_of_the_code(migrated: str, on_database: Any) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    async def compare(database: Any) -> list[Any]:
        async with database.engine.connect() as connection:
            return await connection.run_sync(
                lambda sync: compare_metadata(MigrationContext.configure(sync), METADATA)
            )

    assert on_database(compare) == []


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_database_without_tables_is_left_alone_and_says_what_to_do(on_database: Any) -> None:
    async def ask(database: Any) -> None:
        with pytest.raises(DatabaseDown, match="version none, not v1: run `ragrelay db upgrade`"):
            await database.run(lambda connection: connection.execute(text("SELECT 1")))

    on_database(ask)
    assert tables(on_database) == set()


def test_database_of_another_version_is_not_written_to(migrated: str, on_database: Any) -> None:
    async def ask(database: Any) -> None:
        async with database.engine.begin() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = 'v0'"))
        with pytest.raises(DatabaseDown):
            await database.run(lambda connection: connection.execute(text("SELECT 1")))

    on_database(ask)


def test_migrating_waits_for_another_that_migrates(database_url: str, on_database: Any) -> None:
    async def work(database: Database) -> None:
        async with database.engine.begin() as first:
            await first.exec_driver_sql(ALONE[database.engine.dialect.name])
            second = asyncio.create_task(Database(database_url, "unused").migrate())
            done, _ = await asyncio.wait({second}, timeout=0.7)
            assert not done
        await second

    on_database(work)
    assert tables(on_database) == {"alembic_version", "answers", "feedback"}
