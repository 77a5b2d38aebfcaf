"""Every test of the log runs over SQLite and over a real PostgreSQL."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from api.log.database import Database
from tests.log.servers import Postgres, postgres

T = TypeVar("T")
Run = Callable[[Callable[[Database], Awaitable[T]]], T]
_numbers = itertools.count()


@pytest.fixture(scope="session")
def _server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(scope="session")
def pg(_server: Postgres) -> Postgres:
    return _server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.sqlite'}"
    server: Postgres = request.getfixturevalue("pg")
    return server.create(f"log{next(_numbers)}")


@pytest.fixture
def run(url: str) -> Run[Any]:
    """Run a coroutine over the database, opened and closed for it."""

    def run_with(work: Callable[[Database], Awaitable[T]]) -> T:
        async def opened() -> T:
            database = Database(url, "unused")
            try:
                return await work(database)
            finally:
                await database.close()

        return asyncio.run(opened())

    return run_with


@pytest.fixture
def migrated(url: str, run: Run[Any]) -> str:
    run(lambda database: database.migrate())
    return url
