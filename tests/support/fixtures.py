"""Fixtures of several rooms: stores, databases, a model, evaluation data."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import pytest

from api.log.database import Database
from retrieval.models.embedder import Embedder, load_embedder
from retrieval.models.resolve import MINILM, MINILM_WHEEL
from tests.support.servers import AS_LEDGER, Postgres, RedisServer, postgres, redis_server

T = TypeVar("T")
OnDatabase = Callable[[Callable[[Database], Awaitable[T]]], T]

DATA = Path(__file__).parents[3] / "shared" / "data"
_numbers = itertools.count()


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A store for the answer caches of a module."""
    with redis_server(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def ledger_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A store for keys, limits and budgets."""
    with redis_server(tmp_path, *AS_LEDGER) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database: SQLite, then PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.sqlite'}"
    server: Postgres = request.getfixturevalue("postgres_server")
    return server.create(f"log{next(_numbers)}")


@pytest.fixture
def on_database(database_url: str) -> OnDatabase[Any]:
    """Run a coroutine over the database, opened and closed for it."""

    def run_with(work: Callable[[Database], Awaitable[T]]) -> T:
        async def opened() -> T:
            database = Database(database_url, "unused")
            try:
                return await work(database)
            finally:
                await database.close()

        return asyncio.run(opened())

    return run_with


@pytest.fixture
def migrated(database_url: str, on_database: OnDatabase[Any]) -> str:
    """The address of a database with its tables."""
    on_database(lambda database: database.migrate())
    return database_url


@pytest.fixture(scope="session")
def minilm() -> Iterator[Embedder]:
    if find_spec(MINILM_WHEEL) is None:
        pytest.skip(f"{MINILM_WHEEL} is not installed (extra: embedded)")
    embedder = load_embedder(MINILM, threads=1)
    yield embedder
    embedder.close()


@pytest.fixture(scope="session")
def pair_files() -> Path:
    """The folder of question pairs that a semantic cache is measured with."""
    folder = DATA / "semantic-cache"
    if not folder.exists():
        pytest.skip("evaluation data is not here: semantic-cache")
    return folder
