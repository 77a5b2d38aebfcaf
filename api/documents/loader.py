"""Load the models and the index in the background, and follow the newest generation.

The port is open long before a model is loaded; until then questions are answered with 503.
"""

import asyncio
import gc
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from api.errors import Loading, NoIndex
from api.health import Check
from api.logs import logger
from api.machine import available_cores, model_threads
from api.settings.retrieval import RetrievalSettings
from api.settings.types import read_model
from api.telemetry.metrics import Metrics
from retrieval.index.index import Index, current_generation, open_index
from retrieval.index.tombstones import Tombstones
from retrieval.models.embedder import Embedder, load_embedder
from retrieval.models.reranker import Reranker, load_reranker
from retrieval.search.retriever import Retriever
from retrieval.types import RetrievalError

POLL_S = 1.0
WARM_UP = "What is this about?"


class Loader:
    """Loads the embedding model once and opens every new generation that the pointer names."""

    def __init__(
        self, settings: RetrievalSettings, metrics: Metrics, *, cache_model: str | None = None
    ) -> None:
        """`cache_model` is loaded as well, once where it is retrieval's own."""
        self._settings = settings
        self._cache_model = cache_model
        self.cache_embedder: Embedder | None = None
        self.on_swap: Callable[[Index | None, Index], object] = lambda old, new: None
        """Called with the index that served, if one did, and the one that serves from now on."""
        self.on_hide: list[Callable[[], object]] = []
        """Called when documents have been deleted, here or by another process."""
        self._metrics = metrics
        self._index_dir = Path(settings.index_dir)
        self._tombstones = Tombstones(self._index_dir)
        self._following = asyncio.Lock()
        self._embedder: Embedder | None = None
        self._is_warm = False
        self._reranker: Reranker | None = None
        self._retriever: Retriever | None = None
        self._model_error: str | None = None
        self._index_error: str | None = None
        self._refused_generation: str | None = None
        self.settled = asyncio.Event()
        """Set once the first attempt to load has ended, well or not."""

    def retriever(self) -> Retriever:
        """Return the retriever, which knows what was deleted up to now.

        Raises Loading, or NoIndex with the command that builds one, or with what keeps us from
        knowing what was deleted.
        """
        if self._retriever is not None:
            self.hide_deleted()
            return self._retriever
        if self._model_error is not None:
            raise Loading(f"the embedding model cannot be loaded: {self._model_error}")
        if self._index_error is not None:
            raise NoIndex(self._index_error)
        raise Loading("models and index are loading")

    @property
    def index(self) -> Index | None:
        return self._retriever.index if self._retriever else None

    @property
    def embedder(self) -> Embedder | None:
        """Retrieval's model; None while it is loading."""
        return self._embedder if self._is_warm else None

    def hide_deleted(self) -> None:
        """Show no more of what was deleted; one stat where nothing was. Raises NoIndex."""
        try:
            if not self._tombstones.refresh():
                return
        except RetrievalError as exc:
            raise NoIndex(str(exc)) from exc
        if self.index is not None:
            self.index.hidden = self._tombstones.gone(self.index.manifest.seq)
        for tell in self.on_hide:
            tell()

    def checks(self) -> dict[str, Check]:
        """State of `models` and `index`."""
        is_loaded = self._embedder is not None and not self._model_error
        models = Check("ok") if is_loaded else Check("down", detail=self._model_error)
        index = Check("ok") if self._retriever else Check("down", detail=self._index_error)
        return {"models": models, "index": index}

    async def run(self) -> None:
        """Load, then follow the pointer until cancelled."""
        try:
            self._embedder = await asyncio.to_thread(self._load_model)
            if self._settings.rerank_model:
                self._reranker = await asyncio.to_thread(self._load_reranker)
        except (RetrievalError, OSError, ValueError) as exc:
            self._model_error = str(exc)
            self.settled.set()
            logger.error("model not loaded", extra={"facts": {"reason": str(exc)}})
            return
        await self._embedder.embed(WARM_UP)
        self._is_warm = True
        # torch leaves 430,000 objects that stay: a full collection would stop the loop for
        # some 300 ms each time to look at them.
        gc.collect()
        gc.freeze()
        loading_cache = asyncio.create_task(self._load_cache_model(self._embedder))
        try:
            await self._follow_for_ever()
        finally:
            loading_cache.cancel()

    async def _follow_for_ever(self) -> None:
        while True:
            await self.follow()
            self.settled.set()
            await asyncio.sleep(POLL_S)

    async def follow(self) -> None:
        """Serve the generation that the pointer names now; nothing before the model is loaded."""
        if self.embedder is not None:
            async with self._following:
                await self._follow(self.embedder)

    def close(self) -> None:
        if self._retriever is not None:
            self._retriever.index.close()
        for model in {self._embedder, self.cache_embedder, self._reranker}:
            if model is not None:
                model.close()

    @property
    def shares_embedder(self) -> bool:
        """The cache and the retrieval read questions with the same model."""
        return self.cache_embedder is self._embedder

    async def _load_cache_model(self, embedder: Embedder) -> None:
        """Load the cache's model; without it the cache knows equal questions alone."""
        if self._cache_model in (None, self._settings.embedding_model):
            self.cache_embedder = embedder if self._cache_model else None
            return
        try:
            model = read_model(self._cache_model or "")
            self.cache_embedder = await asyncio.to_thread(
                load_embedder,
                model.id,
                revision=model.revision,
                threads=model_threads(available_cores()),
            )
        except (RetrievalError, OSError, ValueError) as exc:
            facts = {"setting": "CACHE_EMBEDDING_MODEL", "reason": str(exc)}
            logger.error("cache answers equal questions alone", extra={"facts": facts})

    def _load_model(self) -> Embedder:
        model = self._settings.embedding
        return load_embedder(
            model.id,
            revision=model.revision,
            device=self._settings.device,
            threads=model_threads(available_cores()),
            backend=self._settings.backend,
        )

    def _load_reranker(self) -> Reranker:
        model = self._settings.reranking
        return load_reranker(
            model.id,
            revision=model.revision,
            device=self._settings.device,
            threads=model_threads(available_cores()),
        )

    async def _follow(self, embedder: Embedder) -> None:
        """Open the generation that the pointer names, if it is not the one in use."""
        pointed: str | None = None
        try:
            pointed = await asyncio.to_thread(current_generation, self._index_dir)
            if pointed is not None and pointed in (self._generation(), self._refused_generation):
                self._note_age()
                return
            device = "cuda" if self._settings.device == "cuda" else "cpu"
            index = await asyncio.to_thread(open_index, self._index_dir, device=device)
            index.require(embedder)
        except (RetrievalError, OSError) as exc:
            self._refuse(str(exc), pointed)
            return
        await self._swap(embedder, index)

    def _generation(self) -> str | None:
        return self.index.generation if self.index else None

    def _refuse(self, reason: str, generation: str | None) -> None:
        """Keep what serves; say why the pointed one does not, once."""
        self._refused_generation = generation
        if reason != self._index_error:
            self._index_error = reason
            logger.error("index not opened", extra={"facts": {"reason": reason}})

    async def _swap(self, embedder: Embedder, index: Index) -> None:
        retriever = Retriever(
            embedder,
            index,
            fusion=self._settings.fusion,
            sparse_weight=self._settings.sparse_weight,
            min_similarity=self._settings.min_similarity,
            reranker=self._reranker,
        )
        await retriever.retrieve(WARM_UP, 3)
        index.hidden = self._tombstones.gone(index.manifest.seq)
        old = self.index
        # The old generation is freed when the last answer that reads it lets go.
        self._retriever, self._index_error = retriever, None
        self.on_swap(old, index)
        passages = index.manifest.counts.passages
        self._metrics.index_passages.set(passages)
        self._note_age()
        facts = {"generation": index.generation, "passages": passages}
        logger.info("index opened", extra={"facts": facts})

    def _note_age(self) -> None:
        if self.index is not None:
            created = datetime.fromisoformat(self.index.manifest.created_at)
            age_s = time.time() - created.replace(tzinfo=created.tzinfo or UTC).timestamp()
            self._metrics.index_age.set(age_s)
