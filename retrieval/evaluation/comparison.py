"""Compare retrieval under several configurations, on the same judged queries.

Every model is loaded once, every passage embedded once a model, in a folder that is thrown away.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from retrieval.build.build import build_index
from retrieval.evaluation.evaluation import KS, Measured, Qrels, Report, judged_queries, measure
from retrieval.evaluation.metrics import Figure, bootstrap
from retrieval.index.index import Index, open_index
from retrieval.models.embedder import Backend, Embedder, load_embedder
from retrieval.models.reranker import Reranker, load_reranker
from retrieval.models.resolve import MINILM
from retrieval.search.ranking import MIN_SIMILARITY, SPARSE_WEIGHT, Fusion
from retrieval.search.retriever import Retriever
from retrieval.types import Float32Array, Language, Progress, ignore_progress

SHOWN = ("nDCG@10", "MRR@10", "recall@1", "recall@10", "recall@100")


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    embedding_model: str = MINILM
    embedding_revision: str | None = None
    backend: Backend = "auto"
    device: str = "cpu"
    language: Language = "english"
    fusion: Fusion = "convex"
    sparse_weight: float = SPARSE_WEIGHT
    min_similarity: float = MIN_SIMILARITY
    rerank_model: str = ""
    rerank_revision: str | None = None


class Comparison(msgspec.Struct, frozen=True):
    """In the order of the configurations; differences are to the first, query by query."""

    names: list[str]
    reports: list[Report]
    differences: list[dict[str, Figure]]

    def to_table(self) -> str:
        """Markdown: two rows a configuration, its figures and how far they are from the first's;
        of one alone every figure there is."""
        if len(self.reports) == 1:
            return self.reports[0].to_table()
        lines = [
            "| " + " | ".join([f"{self.reports[0].n_queries} queries", *SHOWN]) + " |",
            "|---" * (len(SHOWN) + 1) + "|",
        ]
        for name, report in zip(self.names, self.reports, strict=True):
            lines.append(_row(name, [str(report.figures[metric]) for metric in SHOWN]))
        for name, difference in zip(self.names[1:], self.differences[1:], strict=True):
            cells = [difference[metric].signed for metric in SHOWN]
            lines.append(_row(f"{name} less {self.names[0]}", cells))
        return "\n".join(lines)


def compare(
    corpus: Path,
    queries: Mapping[str, str],
    qrels: Qrels,
    configurations: Sequence[Configuration],
    *,
    threads: int | None = None,
    on_progress: Progress = ignore_progress,
) -> Comparison:
    """Index `corpus` and ask every judged query, once a configuration.

    Raises what building and loading raise, and RetrievalError when no query is judged.
    """
    judged = judged_queries(queries, qrels)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="ragrelay-eval-")))
        bench = _Bench(folder, corpus, judged, stack, threads, on_progress)
        measured = [
            measure(
                bench.retriever(configuration),
                judged,
                qrels,
                KS,
                query_embeddings=bench.query_embeddings(configuration),
            )
            for configuration in configurations
        ]
    return Comparison(
        [configuration.name for configuration in configurations],
        [Report.of(each, KS) for each in measured],
        [_difference(each, measured[0]) for each in measured],
    )


class _Bench:
    """Models, indexes and query embeddings, each made when first asked for."""

    def __init__(
        self,
        folder: Path,
        corpus: Path,
        queries: Mapping[str, str],
        stack: ExitStack,
        threads: int | None,
        on_progress: Progress,
    ) -> None:
        self._folder, self._corpus, self._queries = folder, corpus, queries
        self._stack, self._threads, self._on_progress = stack, threads, on_progress
        self._embedders: dict[tuple[str, str | None, str, Backend], Embedder] = {}
        self._rerankers: dict[tuple[str, str | None, str], Reranker] = {}
        self._indexes: dict[tuple[Embedder, Language], Index] = {}
        self._query_embeddings: dict[Embedder, Float32Array] = {}

    def retriever(self, configuration: Configuration) -> Retriever:
        return Retriever(
            self._embedder(configuration),
            self._index(configuration),
            fusion=configuration.fusion,
            sparse_weight=configuration.sparse_weight,
            min_similarity=configuration.min_similarity,
            reranker=self._reranker(configuration) if configuration.rerank_model else None,
        )

    def query_embeddings(self, configuration: Configuration) -> Float32Array:
        embedder = self._embedder(configuration)
        if embedder not in self._query_embeddings:
            texts = list(self._queries.values())
            self._query_embeddings[embedder] = embedder.encode_queries(texts)
        return self._query_embeddings[embedder]

    def _embedder(self, wanted: Configuration) -> Embedder:
        key = (wanted.embedding_model, wanted.embedding_revision, wanted.device, wanted.backend)
        if key not in self._embedders:
            model_id, revision, device, backend = key
            self._embedders[key] = load_embedder(
                model_id, revision=revision, device=device, backend=backend, threads=self._threads
            )
            self._stack.callback(self._embedders[key].close)
        return self._embedders[key]

    def _reranker(self, wanted: Configuration) -> Reranker:
        key = (wanted.rerank_model, wanted.rerank_revision, wanted.device)
        if key not in self._rerankers:
            model_id, revision, device = key
            self._rerankers[key] = load_reranker(
                model_id, revision=revision, device=device, threads=self._threads
            )
            self._stack.callback(self._rerankers[key].close)
        return self._rerankers[key]

    def _index(self, wanted: Configuration) -> Index:
        """One folder a model: what another language builds there takes over the vectors."""
        embedder = self._embedder(wanted)
        key = (embedder, wanted.language)
        if key not in self._indexes:
            folder = self._folder / str(list(self._embedders.values()).index(embedder))
            build_index(
                folder,
                [self._corpus],
                embedder,
                language=wanted.language,
                on_progress=self._on_progress,
            )
            self._indexes[key] = open_index(folder, device=wanted.device)
            self._stack.callback(self._indexes[key].close)
        return self._indexes[key]


def _difference(one: Measured, other: Measured) -> dict[str, Figure]:
    return dict(zip(one.names, bootstrap(one.table - other.table), strict=True))


def _row(name: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join([name, *cells]) + " |"
