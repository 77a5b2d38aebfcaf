import asyncio
import time

import numpy as np
import pytest

from retrieval import retriever as retriever_module
from retrieval.build import build_index
from retrieval.fusion import convex
from retrieval.index import Index, open_index
from retrieval.retriever import Retriever
from tests.retrieval.fakes import FakeEmbedder

CATS, DOGS, OWLS = (
    "Cats\n# Cats\n\nCats sleep sixteen hours a day.\n",
    "dogs\nDogs bark at the postman.",
    "owls\nOwls hunt mice at night.",
)
VECTORS = {
    CATS: [1, 0, 0],
    DOGS: [0.6, 0.8, 0],
    OWLS: [0, 0.8, 0.6],
    "kittens": [1, 0, 0],
    "postman": [0, 0, 1],
    "sleeping cats": [0.8, 0.6, 0],
    "qqq": [0, 0, -1],
}


@pytest.fixture
def embedder() -> FakeEmbedder:
    return FakeEmbedder({text: vector for text, vector in VECTORS.items()}, dim=3)


@pytest.fixture
def index(tmp_path, corpus, embedder) -> Index:
    build_index(tmp_path / "index", [corpus], embedder)
    return open_index(tmp_path / "index")


def retrieve(retriever: Retriever, query: str, k: int = 3):
    return asyncio.run(retriever.retrieve(query, k))


def test_retrieve_by_hand_fuses_both_sides(embedder, index):
    retrieval = retrieve(Retriever(embedder, index), "sleeping cats")
    assert retrieval.generation == index.generation
    assert set(retrieval.latency_ms) == {"embed", "dense", "sparse", "fuse"}
    assert [hit.rank for hit in retrieval.hits] == [1, 2, 3]
    by_doc = {hit.passage.doc_id: hit.scores for hit in retrieval.hits}
    assert by_doc["dogs.txt"].dense == pytest.approx(0.96)
    assert by_doc["cats.md"].dense == pytest.approx(0.8)
    assert by_doc["owls.txt"].dense == pytest.approx(0.48)
    assert by_doc["dogs.txt"].sparse is None
    assert by_doc["cats.md"].fused == pytest.approx(0.5 + 0.5 * (0.8 - 0.48) / (0.96 - 0.48))
    assert by_doc["dogs.txt"].fused == pytest.approx(0.5)
    assert retrieval.hits[0].passage.doc_id == "cats.md"


def test_retrieve_only_dense_finds_without_a_common_term(embedder, index):
    hits = retrieve(Retriever(embedder, index), "kittens").hits
    assert [hit.passage.doc_id for hit in hits] == ["cats.md", "dogs.txt"]
    assert hits[0].scores.sparse is None


def test_retrieve_only_a_term_matches_keeps_that_hit(embedder, index):
    hits = retrieve(Retriever(embedder, index, min_similarity=0.7), "postman").hits
    assert [hit.passage.doc_id for hit in hits] == ["dogs.txt"]
    assert hits[0].scores.dense == pytest.approx(0)


def test_retrieve_nothing_alike_is_empty(embedder, index):
    for fusion in ("convex", "rrf", "dense", "sparse"):
        assert retrieve(Retriever(embedder, index, fusion=fusion), "qqq").hits == []


def test_retrieve_k_cuts_after_fusion(embedder, index):
    retriever = Retriever(embedder, index)
    every = retrieve(retriever, "sleeping cats", 100).hits
    assert len(every) == 3
    assert retrieve(retriever, "sleeping cats", 1).hits == every[:1]


def test_retrieve_each_fusion_orders_by_its_own_score(embedder, index):
    order = {
        fusion: [
            hit.passage.doc_id
            for hit in retrieve(Retriever(embedder, index, fusion=fusion), "sleeping cats").hits
        ]
        for fusion in ("rrf", "dense", "sparse")
    }
    assert order == {
        "rrf": ["cats.md", "dogs.txt", "owls.txt"],
        "dense": ["dogs.txt", "cats.md", "owls.txt"],
        "sparse": ["cats.md"],
    }


def test_retriever_unknown_fusion_is_refused(embedder, index):
    with pytest.raises(ValueError, match="not one of convex, rrf, dense, sparse"):
        Retriever(embedder, index, fusion="magic")


def test_rank_equals_fusing_every_passage_of_a_small_index(embedder, index):
    """With as many candidates as passages nothing is cut, so brute force must agree."""
    query_embedding = embedder.encode_queries(["sleeping cats"])[0]
    sparse = index.sparse.scores("sleeping cats")
    fused = convex(index.dense.vectors(np.arange(3)) @ query_embedding, sparse)
    ranking = Retriever(embedder, index).rank(index, query_embedding, sparse)
    assert ranking.rows.tolist() == np.argsort(-fused).tolist()
    np.testing.assert_allclose(ranking.fused, np.sort(fused)[::-1], atol=1e-6)


def test_retrieve_large_index_off_the_loop_gives_the_same(embedder, index, monkeypatch):
    retriever = Retriever(embedder, index)
    inline = retrieve(retriever, "sleeping cats").hits
    monkeypatch.setattr(retriever_module, "INLINE_PASSAGES", 0)
    assert retrieve(retriever, "sleeping cats").hits == inline


def test_index_swapped_while_retrieving_finishes_on_the_old(tmp_path, corpus, embedder, index):
    retriever = Retriever(embedder, index)
    (corpus / "owls.txt").unlink()
    build_index(tmp_path / "index", [corpus], embedder)
    new = open_index(tmp_path / "index")

    async def scenario():
        running = asyncio.create_task(retriever.retrieve("sleeping cats", 3))
        await asyncio.sleep(0)
        retriever.index = new
        return await running, await retriever.retrieve("sleeping cats", 3)

    before, after = asyncio.run(scenario())
    assert (before.generation, after.generation) == (index.generation, new.generation)
    assert (len(before.hits), len(after.hits)) == (3, 2)


class Slow(FakeEmbedder):
    cancelled = False

    async def embed(self, query: str):
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            self.cancelled = True
            raise


def test_retrieve_cancelled_cancels_the_embedding(embedder, index):
    slow = Slow(VECTORS, dim=3)

    async def scenario():
        running = asyncio.create_task(Retriever(slow, index).retrieve("kittens", 1))
        await asyncio.sleep(0.05)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await asyncio.sleep(0)

    started = time.monotonic()
    asyncio.run(scenario())
    assert slow.cancelled
    assert time.monotonic() - started < 2


class Broken(FakeEmbedder):
    async def embed(self, query: str):
        raise RuntimeError("model broke")


def test_retrieve_embedding_fails_raises_its_error(index):
    with pytest.raises(RuntimeError, match="model broke"):
        retrieve(Retriever(Broken(VECTORS, dim=3), index), "kittens")
