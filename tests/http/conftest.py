"""A live server whose streams can be resumed, with long limits."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from api.http.edge import Edge
from tests.support.engine import FakeEngine
from tests.support.harness import (
    Client,
    live,
    settings_for,
)


@pytest.fixture(scope="module")
def _resuming(_engine: FakeEngine, index_dir: Path) -> Iterator[tuple[Client, Edge]]:
    limits = {"commit_seconds": 0.4, "first_token_seconds": 5.0, "token_seconds": 5.0}
    settings = settings_for(_engine.url, index_dir, engine=limits)
    with live(settings) as served:
        yield served


@pytest.fixture
def resuming(_resuming: tuple[Client, Edge], engine: FakeEngine) -> Client:
    return _resuming[0]


@pytest.fixture
def resuming_app(_resuming: tuple[Client, Edge]) -> Edge:
    return _resuming[1]
