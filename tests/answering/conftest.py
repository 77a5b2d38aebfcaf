"""A live server with an empty cache."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from api.http.edge import Edge
from tests.answering.experimenting import TWO
from tests.support.caching import caching
from tests.support.engine import FakeEngine
from tests.support.harness import (
    Client,
)
from tests.support.servers import RedisServer


@pytest.fixture(scope="module")
def _cached(
    _engine: FakeEngine, index_dir: Path, valkey: RedisServer
) -> Iterator[tuple[Client, Edge]]:
    with caching(_engine, index_dir, valkey) as served:
        yield served


@pytest.fixture
def cached(_cached: tuple[Client, Edge], engine: FakeEngine) -> Client:
    """A live server with an empty cache over a real RedisServer."""
    client = _cached[0]
    assert client.request("DELETE", "/cache").status == 200
    return client


@pytest.fixture
def experiment_file(tmp_path: Path) -> Path:
    (tmp_path / "b.txt").write_text("Answer as briefly as you can.")
    (tmp_path / "e.toml").write_text(TWO)
    return tmp_path / "e.toml"
