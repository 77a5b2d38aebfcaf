"""Cached answers across a swap: what a change does not touch lives on, the rest is gone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.http.edge import Edge
from retrieval.build.build import build_index
from retrieval.models.embedder import Embedder, load_embedder
from tests.support.caching import caching
from tests.support.engine import FakeEngine
from tests.support.harness import Client
from tests.support.pages import PAGES
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

FRANCE = {"query": "What is the capital of France?", "top_k": 1}
PERU = {"query": "What is the capital of Peru?", "top_k": 1}
TEA = {"query": "How long is green tea brewed?", "top_k": 1}


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    embedder = load_embedder("sentence-transformers/all-MiniLM-L6-v2", threads=1)
    yield embedder
    embedder.close()


class House:
    """A server over an index that changes."""

    def __init__(self, client: Client, app: Edge, folder: Path, embedder: Embedder) -> None:
        self.client, self.app = client, app
        self._folder, self._embedder = folder, embedder

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        answered = self.client.post("/query", body)
        assert answered.status == 200
        return answered.json()

    def write(self, **pages: str) -> str:
        """Write pages, index them, wait until they serve and the cache has been looked through."""
        for name, text in pages.items():
            (self._folder / "pages" / f"{name}.md").write_text(text)
        report = build_index(self._folder / "index", [self._folder / "pages"], self._embedder)
        cache = self.app.service.cache
        assert cache is not None
        eventually(
            lambda: cache._copy._live_generations == frozenset([report.generation]), within_s=20
        )
        return report.generation


@pytest.fixture
def house(
    engine: FakeEngine, embedder: Embedder, tmp_path: Path, valkey: RedisServer
) -> Iterator[House]:
    (tmp_path / "pages").mkdir()
    for name, text in PAGES.items():
        (tmp_path / "pages" / name).write_text(text)
    build_index(tmp_path / "index", [tmp_path / "pages"], embedder)
    with caching(engine, tmp_path / "index", valkey) as (client, app):
        yield House(client, app, tmp_path, embedder)


def test_answer_whose_sources_stay_is_served_by_the_new_generation(
    house: House, engine: FakeEngine
) -> None:
    first = house.ask(FRANCE)
    generation = house.write(chess="# Chess\n\nA pawn moves forward and takes sideways.")
    again = house.ask(FRANCE)
    assert len(engine.chats) == 1
    assert (again["cache"]["kind"], again["index_generation"]) == ("exact", generation)
    assert again["sources"] == first["sources"]
    paraphrase = house.ask({**FRANCE, "query": "What's the capital city of France?"})
    assert paraphrase["cache"]["kind"] == "semantic"


def test_answer_from_a_changed_document_dies(house: House, engine: FakeEngine) -> None:
    house.ask(PERU)
    house.write(peru="# Peru\n\nCusco is the capital of Peru, says this page.")
    again = house.ask(PERU)
    assert len(engine.chats) == 2
    assert again["cache"]["kind"] == "none"
    assert "Cusco" in again["sources"][0]["text"]


def test_answer_that_a_new_passage_outscores_dies(house: House, engine: FakeEngine) -> None:
    house.ask(TEA)
    house.write(brewing="# How long green tea is brewed\n\nGreen tea is brewed for three minutes.")
    again = house.ask(TEA)
    assert len(engine.chats) == 2
    assert "three minutes" in again["sources"][0]["text"]


def test_carried_answer_is_still_deleted_with_its_document(house: House) -> None:
    house.ask(FRANCE)
    house.write(chess="# Chess\n\nA pawn moves forward and takes sideways.")
    gone = house.client.request("DELETE", "/cache?doc_id=france.md").json()
    assert gone["deleted"] >= 1
    assert house.ask(FRANCE)["cache"]["kind"] == "none"
