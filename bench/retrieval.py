"""How long a query takes, stage by stage, beside bare bm25s and FAISS in the same run.

python -m bench.retrieval [SQUAD_JSON]

(Not as `python bench/retrieval.py`: it would then be what `import retrieval` finds.)
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import bm25s
import faiss
import msgspec
import numpy as np
import Stemmer

from retrieval.build import build_index
from retrieval.corpora import SquadParagraph, read_squad
from retrieval.embedding import Embedder, load_embedder
from retrieval.index import Index, open_index
from retrieval.models import MINILM
from retrieval.retriever import Retriever
from retrieval.types import Float32Array

DATA = Path("../shared/data/squad/dev-v1.1.json.gz")
N_QUERIES = 300
K = 10
DEPTH = 100

Row = dict[str, object]
Paragraph = tuple[str, str, SquadParagraph]


class NoisyEmbedder:
    """Queries through the real model; passages get the vectors of the corpus, a little moved."""

    def __init__(self, embedder: Embedder, vectors: Float32Array) -> None:
        self._embedder = embedder
        self._vectors = vectors
        self.model_id, self.revision = embedder.model_id, embedder.revision
        self.dim, self.max_tokens = embedder.dim, embedder.max_tokens
        self.tokenizer = embedder.tokenizer
        self.embed, self.encode_queries = embedder.embed, embedder.encode_queries

    def encode_passages(
        self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None
    ) -> Float32Array:
        rng = np.random.default_rng(0)
        rows = np.arange(len(texts)) % len(self._vectors)
        noise = rng.standard_normal((len(texts), self.dim), dtype=np.float32)
        moved: Float32Array = self._vectors[rows] + np.float32(0.02) * noise
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        return moved


def bench(squad: Path) -> list[Row]:
    """Rows of figures, milliseconds; p50 and p95 over the queries."""
    embedder = load_embedder(MINILM)
    articles = list(read_squad(squad).paragraphs())
    queries = [question.question for _, _, paragraph in articles for question in paragraph.qas[:1]][
        :N_QUERIES
    ]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        vectors = _real_vectors(embedder, articles)
        noisy = NoisyEmbedder(embedder, vectors)
        for times in (1, 10):
            corpus = Path(scratch) / f"{times}.jsonl"
            _write_corpus(articles, corpus, times)
            build_index(Path(scratch) / f"index{times}", [corpus], noisy)
            started = time.perf_counter()
            index = open_index(Path(scratch) / f"index{times}")
            opened = (time.perf_counter() - started) * 1000
            rows += _rows(Retriever(noisy, index), index, queries, noisy)
            rows.append({"passages": len(index), "stage": "open, verified", "p50": opened})
            index.close()
    embedder.close()
    return rows


def _rows(
    retriever: Retriever, index: Index, queries: list[str], embedder: NoisyEmbedder
) -> list[Row]:
    ours, bare = _ours(retriever, queries), _bare(index, queries, embedder)
    bare_p50 = float(np.percentile(bare["bare total"], 50))
    rows: list[Row] = []
    for stage, spent in {**ours, **bare}.items():
        p50, p95 = np.percentile(spent, [50, 95]).tolist()
        row: Row = {"passages": len(index), "stage": stage, "p50": p50, "p95": p95}
        if stage not in ("embed", "whole retrieve"):
            row["times bare"] = p50 / bare_p50
        rows.append(row)
    return rows


def _ours(retriever: Retriever, queries: list[str]) -> dict[str, list[float]]:
    spent: dict[str, list[float]] = {}

    async def run() -> None:
        for query in [*queries[:20], *queries]:
            started = time.perf_counter()
            retrieval = await retriever.retrieve(query, K)
            whole = (time.perf_counter() - started) * 1000
            stages = dict(retrieval.latency_ms)
            outside = whole - stages["embed"]  # BM25 runs while the model does
            for stage, ms in {
                **stages,
                "all stages but embed": sum(stages.values()) - stages["embed"],
                "added to embed": outside,
                "whole retrieve": whole,
            }.items():
                spent.setdefault(stage, []).append(ms)

    asyncio.run(run())
    return {stage: times[20:] for stage, times in spent.items()}


def _bare(index: Index, queries: list[str], embedder: NoisyEmbedder) -> dict[str, list[float]]:
    """bm25s.tokenize + retrieve and FAISS search as their manuals show them, no fusion."""
    stemmer = Stemmer.Stemmer("english")
    texts = [index.store[row].indexed_text for row in range(len(index))]
    options = {"stopwords": "english", "stemmer": stemmer, "show_progress": False}
    bm25 = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    bm25.index(bm25s.tokenize(texts, **options), show_progress=False)
    flat = faiss.IndexFlatIP(embedder.dim)
    flat.add(index.dense.vectors(np.arange(len(index))))
    spent: dict[str, list[float]] = {"bare bm25s": [], "bare FAISS": [], "bare total": []}
    for query, embedding in zip(queries, embedder.encode_queries(queries), strict=True):
        started = time.perf_counter()
        tokens = bm25s.tokenize([query], **options)
        bm25.retrieve(tokens, k=DEPTH, show_progress=False)
        between = time.perf_counter()
        flat.search(embedding[None, :], DEPTH)
        ended = time.perf_counter()
        spent["bare bm25s"].append((between - started) * 1000)
        spent["bare FAISS"].append((ended - between) * 1000)
        spent["bare total"].append((ended - started) * 1000)
    return spent


def _real_vectors(embedder: Embedder, articles: list[Paragraph]) -> Float32Array:
    """Of 200 passages: enough to be spread as real ones are, and encoded in seconds."""
    step = max(1, len(articles) // 200)
    texts = [f"{title}\n{paragraph.context}" for _, title, paragraph in articles[::step]]
    return embedder.encode_passages(texts)


def _write_corpus(articles: list[Paragraph], path: Path, times: int) -> None:
    with path.open("wb") as file:
        for copy in range(times):
            for doc_id, title, paragraph in articles:
                # Short enough to stay one passage: the passages are the paragraphs.
                text = " ".join(paragraph.context.split()[:120])
                record = {"id": f"{doc_id}/{copy}", "title": title, "text": text}
                file.write(msgspec.json.encode(record) + b"\n")


def to_table(rows: list[Row]) -> str:
    lines = ["| passages | stage | p50 ms | p95 ms | times bare |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [
            f"{row[name]:.3f}" if isinstance(row.get(name), float) else ""
            for name in ("p50", "p95", "times bare")
        ]
        lines.append(f"| {row['passages']} | {row['stage']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    squad = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    if not squad.exists():
        print(f"no data at {squad}; give the path of SQuAD's dev-v1.1.json(.gz)")
        return
    print(to_table(bench(squad)))


if __name__ == "__main__":
    main()
