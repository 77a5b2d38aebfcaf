"""Answer a query with passages: embed beside BM25, then dense search and fusion, then rerank."""

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

import msgspec
import numpy as np

from retrieval.index.filters import EVERYTHING, View
from retrieval.index.index import Index
from retrieval.index.selection import Selection
from retrieval.search.clock import Clock
from retrieval.search.merging import distinct
from retrieval.search.ranking import DEPTH, MIN_SIMILARITY, SPARSE_WEIGHT, Fusion, Ranker
from retrieval.types import Float32Array, Hit, NotReranked, TextEmbedder, TextReranker

T = TypeVar("T")

OVER = 4
RERANK_MOST = 64
"""For k passages OVER * k are looked at: to merge and to drop from, and by the reranker, which
reads RERANK_MOST of them at most (a small one takes 60 ms a passage on a core)."""

INLINE_PASSAGES = 5_000
"""Up to this size a query holds the event loop for about a millisecond (0.5 at 2,000 passages,
10 at 20,000, on two busy cores); a hop to a thread would cost more than it frees."""

NO_RERANK = "no_rerank"

logger = logging.getLogger("ragrelay")


class Retrieval(msgspec.Struct, frozen=True):
    """What a query found, and at what cost."""

    hits: list[Hit]
    latency_ms: dict[str, float]
    """By stage: embed, sparse, dense, fuse, rerank."""
    generation: str
    degraded: tuple[str, ...] = ()
    """`no_rerank`: there is a reranker, but these hits are in the order of fusion."""


class Retriever:
    """Searches one index with one embedding model, and a reranker if there is one.

    `index` may be set at any time: a query uses the one that it began with.
    """

    def __init__(
        self,
        embedder: TextEmbedder,
        index: Index,
        *,
        fusion: Fusion = "convex",
        sparse_weight: float = SPARSE_WEIGHT,
        min_similarity: float = MIN_SIMILARITY,
        reranker: TextReranker | None = None,
    ) -> None:
        self._embedder = embedder
        self._ranker = Ranker(
            fusion=fusion, sparse_weight=sparse_weight, min_similarity=min_similarity
        )
        self._reranker = reranker
        self.index = index

    @property
    def embedder(self) -> TextEmbedder:
        return self._embedder

    @property
    def index(self) -> Index:
        return self._index

    @index.setter
    def index(self, index: Index) -> None:
        index.require(self._embedder)
        self._index = index

    async def retrieve(
        self,
        query: str,
        k: int,
        *,
        view: View = EVERYTHING,
        query_embedding: Float32Array | None = None,
        time_left_s: float | None = None,
    ) -> Retrieval:
        """The best `k` passages that the view sees; none when they hold nothing like the query.

        `query_embedding` (dim,) where the caller has made it already, by the same model.
        Reranking that would not end within `time_left_s` of this call is left out.
        """
        return await self._find(query, k, view, query_embedding, Clock(time_left_s), n_hits=k)

    async def sources(
        self,
        query: str,
        k: int,
        *,
        view: View = EVERYTHING,
        query_embedding: Float32Array | None = None,
        time_left_s: float | None = None,
    ) -> Retrieval:
        """As `retrieve`, made for a prompt: neighbours merged, repeats left out (`distinct`)."""
        clock = Clock(time_left_s)
        found = await self._find(query, k, view, query_embedding, clock, n_hits=OVER * k)
        return msgspec.structs.replace(found, hits=distinct(found.hits, k))

    async def _find(
        self,
        query: str,
        k: int,
        view: View,
        query_embedding: Float32Array | None,
        clock: Clock,
        *,
        n_hits: int,
    ) -> Retrieval:
        index = self._index
        embedding = asyncio.create_task(self._embed(query, query_embedding, clock))
        try:
            await asyncio.sleep(0)  # lets the model start before BM25 does
            among, sparse_scores = await _run(index, lambda: _sparse(index, query, view, clock))
            query_embedding = await embedding
        finally:
            embedding.cancel()  # where BM25 failed or the caller left
        n_read = min(OVER * k, RERANK_MOST) if self._reranker else 0
        hits = await _run(
            index,
            lambda: self._fused(
                index,
                query_embedding,
                sparse_scores,
                among,
                n_hits=max(n_hits, n_read),
                clock=clock,
            ),
        )
        hits, degraded = await self._reranked(query, hits, n_read, clock)
        return Retrieval(hits[:n_hits], clock.ms, index.generation, degraded)

    def _fused(
        self,
        index: Index,
        query_embedding: Float32Array,
        sparse_scores: Float32Array,
        among: Selection | None,
        *,
        n_hits: int,
        clock: Clock,
    ) -> list[Hit]:
        depth = max(n_hits, DEPTH)
        ranking = self._ranker.rank(
            index, query_embedding, sparse_scores, among=among, depth=depth, clock=clock
        )
        with clock.stage("fuse"):
            return ranking.take(slice(n_hits)).read(index)

    async def _reranked(
        self, query: str, hits: list[Hit], n_read: int, clock: Clock
    ) -> tuple[list[Hit], tuple[str, ...]]:
        """The first `n_read` in the reranker's order, the rest as it was behind them.

        With it `no_rerank` where the reranker had too little time or failed; never an error.
        """
        if self._reranker is None or not hits:
            return hits, ()
        read, rest = hits[:n_read], hits[n_read:]
        texts = [hit.passage.indexed_text for hit in read]
        with clock.stage("rerank"):
            try:
                scores = await self._reranker.scores(query, texts, time_left_s=clock.left_s())
            except NotReranked as exc:
                logger.warning("not reranked", extra={"facts": {"reason": str(exc)}})
                return hits, (NO_RERANK,)
        order = np.argsort(-scores, kind="stable").tolist()
        best_first = [
            _with_score(read[n], float(scores[n]), rank) for rank, n in enumerate(order, 1)
        ]
        return best_first + rest, ()

    async def _embed(self, query: str, known: Float32Array | None, clock: Clock) -> Float32Array:
        if known is not None:
            return known
        with clock.stage("embed"):
            return await self._embedder.embed(query)


def _with_score(hit: Hit, rerank: float, rank: int) -> Hit:
    scores = msgspec.structs.replace(hit.scores, rerank=rerank)
    return msgspec.structs.replace(hit, rank=rank, scores=scores)


def _sparse(
    index: Index, query: str, view: View, clock: Clock
) -> tuple[Selection | None, Float32Array]:
    """The rows that the view sees, and BM25's scores of them."""
    with clock.stage("sparse"):
        among = index.visibility.selection(view)
        return among, index.sparse.scores(query, among=among)


async def _run(index: Index, work: Callable[[], T]) -> T:
    """Off the event loop, unless the index is so small that the loop would not notice."""
    return work() if len(index) <= INLINE_PASSAGES else await asyncio.to_thread(work)
