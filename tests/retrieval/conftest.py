from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from retrieval.models.embedder import Embedder, load_embedder
from retrieval.models.resolve import MINILM, MINILM_WHEEL
from tests.retrieval.fakes import FakeEmbedder

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def minilm() -> Iterator[Embedder]:
    if find_spec(MINILM_WHEEL) is None:
        pytest.skip(f"{MINILM_WHEEL} is not installed (extra: embedded)")
    embedder = load_embedder(MINILM, backend="torch")
    yield embedder
    embedder.close()


@pytest.fixture
def fake() -> FakeEmbedder:
    return FakeEmbedder()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three small documents about different things."""
    directory = tmp_path / "corpus"
    directory.mkdir()
    (directory / "cats.md").write_text("# Cats\n\nCats sleep sixteen hours a day.\n")
    (directory / "dogs.txt").write_text("Dogs bark at the postman.")
    (directory / "owls.txt").write_text("Owls hunt mice at night.")
    return directory


@pytest.fixture(scope="session")
def squad_dev() -> Path:
    return _shared("squad/dev-v1.1.json.gz")


@pytest.fixture(scope="session")
def xquad_ids() -> Path:
    return _shared("squad/xquad-en-question-ids.txt")


@pytest.fixture(scope="session")
def scifact() -> Path:
    return _shared("scifact")


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"evaluation data is not here: {name}")
    return path
