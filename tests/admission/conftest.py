"""A store for keys and limits: on Valkey, on both, or one for a whole module."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import AS_LEDGER, RedisServer, redis_server


@pytest.fixture(params=["valkey", "redis"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    """Valkey, then Redis."""
    with redis_server(tmp_path, *AS_LEDGER, kind=request.param) as server:
        yield server


@pytest.fixture
def server(ledger_server: RedisServer) -> RedisServer:
    return ledger_server


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all examples of a property."""
    with redis_server(tmp_path_factory.mktemp("ledger"), *AS_LEDGER) as server:
        yield server
