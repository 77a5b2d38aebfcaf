"""A store for the answer cache, one a test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import AS_CACHE, RedisServer, redis_server


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, *AS_CACHE) as server:
        yield server
