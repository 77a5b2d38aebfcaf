"""What every test shares: one small real index, one live server with a scripted engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from api.http.edge import Edge
from tests.support.engine import FakeEngine, saying
from tests.support.harness import Client, live, settings_for
from tests.support.pages import PAGES
from tests.support.quick_starts import quick_starts

pytest_plugins = ["tests.support.fixtures", "tests.support.skips"]


@pytest.fixture(scope="session", autouse=True)
def _quick_starts() -> Iterator[None]:
    with quick_starts():
        yield


@pytest.fixture(scope="session")
def index_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real index, built once with the real embedding model."""
    from retrieval.build.build import build_index
    from retrieval.models.embedder import load_embedder

    pages = tmp_path_factory.mktemp("pages")
    for name, text in PAGES.items():
        (pages / name).write_text(text)
    directory = tmp_path_factory.mktemp("index")
    embedder = load_embedder("sentence-transformers/all-MiniLM-L6-v2", threads=1)
    build_index(directory, [pages], embedder)
    embedder.close()
    return directory


@pytest.fixture(scope="session")
def _engine() -> Iterator[FakeEngine]:
    with FakeEngine() as engine:
        yield engine


@pytest.fixture
def engine(_engine: FakeEngine) -> FakeEngine:
    """The scripted engine, well-behaved until a test says otherwise."""
    _engine.script = saying()
    _engine.facts_status = 200
    _engine.facts.clear()
    _engine.calls.clear()
    return _engine


@pytest.fixture(scope="session")
def _served(_engine: FakeEngine, index_dir: Path) -> Iterator[tuple[Client, Edge]]:
    limits = {
        "commit_seconds": 0.4,
        "connect_seconds": 1.0,
        "first_token_seconds": 1.2,
        "token_seconds": 0.6,
    }
    with live(settings_for(_engine.url, index_dir, engine=limits)) as served:
        yield served


@pytest.fixture
def client(_served: tuple[Client, Edge], engine: FakeEngine) -> Client:
    """A live server before the scripted engine, with short limits."""
    return _served[0]


@pytest.fixture
def app(_served: tuple[Client, Edge]) -> Edge:
    return _served[1]
