"""A server without keys, over a library with one document, and a cache."""

from collections.abc import Iterator
from urllib.parse import quote

import pytest

from api.http.edge import Edge
from tests.support.caching import cached_in
from tests.support.documents import add, served
from tests.support.engine import FakeEngine
from tests.support.harness import Client
from tests.support.servers import RedisServer, redis_server


@pytest.fixture(scope="package")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="package")
def _open(
    _engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory, valkey: RedisServer
) -> Iterator[tuple[Client, Edge]]:
    with served(_engine, tmp_path_factory.mktemp("index"), cache=cached_in(valkey)) as running:
        add(running[0], {"id": "stays", "text": "Green tea is brewed for two minutes."})
        yield running


@pytest.fixture
def client(_open: tuple[Client, Edge], engine: FakeEngine) -> Iterator[Client]:
    """A server without keys, over a library with one document."""
    yield _open[0]
    for one in _open[0].get("/documents?limit=1000").json()["documents"]:
        if one["doc_id"] != "stays":
            _open[0].request("DELETE", f"/documents/{quote(one['doc_id'], safe='')}")
