"""Decide which cached answers survive an index swap.

An answer lives on if the new generation finds its question the very passages that it was written
from: then no document that it cites has changed, and no new passage ranks above those. All
others die with their generation.
"""

import asyncio
import time
from collections.abc import Callable

import msgspec

from api.answering.events import Source
from api.background import Background
from api.cache.answer_cache import AnswerCache
from api.cache.entries import Entry
from api.logs import logger
from retrieval.index.filters import View
from retrieval.index.index import Index
from retrieval.search.retriever import Retriever
from retrieval.types import Float32Array, Hit, RetrievalError

MAX_S = 10.0
"""After a swap, while questions are answered beside it: some 10,000 answers of an index of 2,000
passages, a dozen where a reranker reads them. The most lately used come first."""


class CarryOver:
    """Runs after each swap; the next one takes up what it has not come to."""

    def __init__(self, cache: AnswerCache, retriever: Callable[[], tuple[Retriever, bool]]) -> None:
        """`retriever` returns the one in use, and whether the cache's vectors are its model's."""
        self._cache = cache
        self._retriever = retriever
        self._old: list[str] = []
        """Generations whose answers have not all been looked at."""
        self._background = Background("cache carrying")

    def swapped(self, old: Index | None, new: Index) -> None:
        if old is not None:
            self._old.append(old.generation)
        self._cache.keep_generations([*self._old, new.generation])
        self._background.start(self._run(new.generation))

    async def close(self) -> None:
        await self._background.stop()

    async def _run(self, new: str) -> None:
        try:
            if self._old:
                retriever, shares_vector = self._retriever()
                n = await carry_over(self._cache, retriever, shares_vector=shares_vector)
                facts = {"generation": new, "entries": n}
                logger.info("cache carried over", extra={"facts": facts})
        except Exception:  # a bug here must not keep dead entries
            logger.exception("cache not carried over")
        self._old.clear()
        self._cache.keep_generations([new])


async def carry_over(cache: AnswerCache, retriever: Retriever, *, shares_vector: bool) -> int:
    """Carry what still holds into the retriever's generation; return how many."""
    carried, until = 0, time.monotonic() + MAX_S
    new = retriever.index.generation
    for id in cache.semantic_ids_outside(new):
        if time.monotonic() > until:
            break
        found = await cache.entry(id)
        if found is None:
            continue
        entry, embedding = found
        if await _still_holds(entry, retriever, embedding if shares_vector else None):
            carried += cache.carry(entry, embedding, new)
        await asyncio.sleep(0)  # requests go first
    return carried


async def _still_holds(
    entry: Entry, retriever: Retriever, query_embedding: Float32Array | None
) -> bool:
    payload = entry.payload
    view = msgspec.convert(payload["view"], View)
    sources = msgspec.convert(payload["sources"], list[Source])
    try:
        found = await retriever.sources(
            entry.question, payload["top_k"], view=view, query_embedding=query_embedding
        )
    except RetrievalError:
        return False
    return not found.degraded and set(map(_read, found.hits)) == {
        (source.passage_id, source.start, source.title, source.text) for source in sources
    }


def _read(hit: Hit) -> tuple[str, int, str, str]:
    """What the engine reads of a passage, and where that stands."""
    passage = hit.passage
    return passage.passage_id, passage.start, passage.title, passage.text
