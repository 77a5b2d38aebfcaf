import asyncio
import json
import time
from collections.abc import Sequence

import numpy as np
import pytest

from retrieval.build.build import build_index
from retrieval.build.splitting import Splitter
from retrieval.index.index import Index, open_index
from retrieval.models.reranker import load_reranker
from retrieval.search import retriever as retriever_module
from retrieval.search.retriever import NO_RERANK, Retriever
from retrieval.types import Float32Array, NotReranked
from tests.retrieval.fakes import FakeEmbedder, word_tokenizer
from tests.retrieval.tiny_models import save_cross_encoder

CATS, DOGS, OWLS = (
    "Cats\n# Cats\n\nCats sleep sixteen hours a day.\n",
    "dogs\nDogs bark at the postman.",
    "owls\nOwls hunt mice at night.",
)
VECTORS: dict[str, Sequence[float]] = {
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
    retrieval = retrieve(Retriever(embedder, index, sparse_weight=0.5), "sleeping cats")
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


class ByLength:
    """Prefers the longest text; keeps what it was given."""

    def __init__(self, *, fails: bool = False) -> None:
        self.read: list[list[str]] = []
        self.times_left: list[float | None] = []
        self.fails = fails

    async def scores(self, query, texts, *, time_left_s=None) -> Float32Array:
        self.read.append(list(texts))
        self.times_left.append(time_left_s)
        if self.fails:
            raise NotReranked("no time")
        return np.array([len(text) for text in texts], dtype=np.float32)


def test_retrieve_reranks_before_it_cuts(embedder, index):
    reranker = ByLength()
    retriever = Retriever(embedder, index, reranker=reranker)
    retrieval = retrieve(retriever, "sleeping cats", 2)
    assert [hit.passage.doc_id for hit in retrieval.hits] == ["cats.md", "dogs.txt"]
    assert [hit.rank for hit in retrieval.hits] == [1, 2]
    assert [hit.scores.rerank for hit in retrieval.hits] == [len(CATS), len(DOGS)]
    assert sorted(reranker.read[0]) == sorted([CATS, DOGS, OWLS])
    assert retrieval.degraded == ()
    assert set(retrieval.latency_ms) == {"embed", "dense", "sparse", "fuse", "rerank"}


def test_retrieve_reranker_gives_up_keeps_the_order_and_says_so(embedder, index):
    plain = retrieve(Retriever(embedder, index), "sleeping cats")
    retriever = Retriever(embedder, index, reranker=ByLength(fails=True))
    retrieval = retrieve(retriever, "sleeping cats")
    assert retrieval.hits == plain.hits
    assert (retrieval.degraded, plain.degraded) == ((NO_RERANK,), ())


def test_retrieve_time_left_reaches_the_reranker_less_what_is_spent(embedder, index):
    reranker = ByLength()
    retriever = Retriever(embedder, index, reranker=reranker)
    asyncio.run(retriever.retrieve("sleeping cats", 2, time_left_s=60))
    asyncio.run(retriever.retrieve("sleeping cats", 2))
    given, none = reranker.times_left
    assert 0 < given < 60
    assert none is None


def test_retrieve_nothing_found_asks_no_reranker(embedder, index):
    reranker = ByLength()
    retrieval = retrieve(Retriever(embedder, index, reranker=reranker), "qqq")
    assert (retrieval.hits, retrieval.degraded, reranker.read) == ([], (), [])


@pytest.fixture
def many(tmp_path) -> Index:
    """100 one-sentence documents, all with the word of the query."""
    lines = [f'{{"id": "{n}", "text": "cats {"very " * n}much number{n}"}}' for n in range(100)]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    build_index(tmp_path / "many", [tmp_path / "c.jsonl"], FakeEmbedder())
    return open_index(tmp_path / "many")


@pytest.mark.parametrize(("k", "n_read"), [(1, 4), (10, 40), (50, 64)])
def test_retrieve_over_retrieves_within_bounds(many, k, n_read):
    reranker = ByLength()
    plain = retrieve(Retriever(FakeEmbedder(), many), "cats", 100).hits
    hits = retrieve(Retriever(FakeEmbedder(), many, reranker=reranker), "cats", 100).hits
    assert len(reranker.read[0]) == 64
    assert hits[64:] == plain[64:]
    assert retrieve(Retriever(FakeEmbedder(), many, reranker=reranker), "cats", k).hits
    assert len(reranker.read[1]) == n_read


def test_sources_merge_neighbours_drop_repeats_and_still_give_k(tmp_path):
    """One document of two touching passages, another twice, and a third."""
    sentence = "Cats and cats sleep on the warm stones of the old harbour wall all day long."
    records = [
        {"id": "long", "text": f"{sentence} So do dogs.\n\nCats also hunt mice in the granary."},
        {"id": "copy1", "text": "Cats drink milk and water from the blue bowl in the kitchen."},
        {"id": "copy2", "text": "cats drink milk and water from the blue bowl in the kitchen"},
        {
            "id": "other",
            "text": "As for rain, it is no secret that most of them, cats, dislike it.",
        },
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    embedder = FakeEmbedder()
    splitter = Splitter(word_tokenizer(), 18, 0)
    build_index(tmp_path / "index", [tmp_path / "c.jsonl"], embedder, splitter=splitter)
    retriever = Retriever(embedder, open_index(tmp_path / "index"), fusion="sparse")
    assert len(retrieve(retriever, "cats", 9).hits) == 5
    sources = asyncio.run(retriever.sources("cats", 3)).hits
    assert [hit.rank for hit in sources] == [1, 2, 3]
    by_doc = {hit.passage.doc_id: hit.passage.text for hit in sources}
    assert by_doc["long"] == records[0]["text"]
    assert set(by_doc) in ({"long", "copy1", "other"}, {"long", "copy2", "other"})


def test_retrieve_real_cross_encoder_moves_what_it_likes_up(embedder, tmp_path):
    save_cross_encoder(tmp_path / "likes-good")
    records = [f'{{"id": "{n}", "text": "cats {text}"}}' for n, text in enumerate(["bad", "good"])]
    (tmp_path / "c.jsonl").write_text("\n".join(records))
    build_index(tmp_path / "index", [tmp_path / "c.jsonl"], embedder)
    index = open_index(tmp_path / "index")
    reranker = load_reranker(str(tmp_path / "likes-good"), threads=1)
    try:
        plain = retrieve(Retriever(embedder, index, fusion="sparse"), "cats bad").hits
        retriever = Retriever(embedder, index, fusion="sparse", reranker=reranker)
        hits = retrieve(retriever, "cats bad").hits
    finally:
        reranker.close()
    assert [hit.passage.doc_id for hit in plain] == ["0", "1"]
    assert [hit.passage.doc_id for hit in hits] == ["1", "0"]
    assert 0 < hits[1].scores.rerank < hits[0].scores.rerank < 1
