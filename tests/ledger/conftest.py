"""A server for the ledger: Valkey, then Redis."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import AS_LEDGER, RedisServer, redis_server


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, *AS_LEDGER, kind=request.param) as running:
        yield running
