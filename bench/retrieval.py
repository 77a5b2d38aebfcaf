"""How long a query takes at 2,000, 20,000 and 100,000 passages, beside bare bm25s and FAISS.

python -m bench.retrieval [SQUAD_JSON]

Texts are real; vectors are real up to 20,000 once `bench.retrieval_texts` has embedded them, else
derived from a few real ones. (Not as `python bench/retrieval.py`: it would then be what
`import retrieval` finds.)
"""

import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CalledProcessError

import bm25s
import faiss
import msgspec
import numpy as np
import Stemmer

from bench.retrieval_chart import Chart
from bench.retrieval_texts import derived_vectors, real_texts, real_vectors
from bench.support.sizes import SMOKE, at_size
from bench.support.small_data import write_squad
from bench.support.tables import print_header
from retrieval.build.build import build_index
from retrieval.build.splitting import Splitter
from retrieval.index.index import Index, open_index
from retrieval.models.embedder import Embedder, load_embedder
from retrieval.models.resolve import MINILM
from retrieval.reading.corpora import read_squad
from retrieval.search.retriever import Retriever
from retrieval.types import Float32Array

DATA = Path("../shared/data/squad/dev-v1.1.json.gz")
CHART = Path("docs/figures/retrieval-time.svg")
SIZES = at_size((2_000, 20_000, 100_000), (150,))
N_QUERIES = at_size(300, 10)
N_FIRST = at_size(20, 2)
"""Queries before the first that counts."""
K = 10
DEPTH = 100

Row = dict[str, object]
Times = dict[str, list[float]]


class GivenVectors:
    """Queries through the real model; passages get vectors made before."""

    def __init__(self, embedder: Embedder, vectors: Float32Array) -> None:
        self._vectors = vectors
        self._given = 0
        self.model_id, self.revision = embedder.model_id, embedder.revision
        self.dim, self.max_tokens = embedder.dim, embedder.max_tokens
        self.tokenizer = embedder.tokenizer
        self.embed, self.encode_queries = embedder.embed, embedder.encode_queries

    def encode_passages(
        self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None
    ) -> Float32Array:
        """The next ones: a build asks for them in order, a part at a time."""
        rows = np.arange(self._given, self._given + len(texts)) % len(self._vectors)
        self._given += len(texts)
        return self._vectors[rows]


def bench(queries: list[str]) -> list[Row]:
    """Rows of figures; milliseconds, p50 and p95 over the queries."""
    faiss.omp_set_num_threads(1)
    embedder = load_embedder(MINILM, threads=1)
    texts = real_texts(SIZES[-1])
    seeds = real_vectors()
    seeds = embedder.encode_passages(texts[:200]) if seeds is None else seeds
    rows: list[Row] = []
    for n in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            given = GivenVectors(embedder, derived_vectors(seeds, n))
            rows += _bench_size(Path(folder), texts[:n], given, queries)
    embedder.close()
    return rows


def _bench_size(
    folder: Path, texts: list[str], given: GivenVectors, queries: list[str]
) -> list[Row]:
    corpus = folder / "corpus.jsonl"
    records = (msgspec.json.encode({"id": n, "text": text}) for n, text in enumerate(texts))
    corpus.write_bytes(b"\n".join(records))
    before = time.process_time()
    whole = Splitter(given.tokenizer, 2_000, limit=4_000)  # a text is a passage
    build_index(folder / "index", [corpus], given, splitter=whole)
    build_s = time.process_time() - before
    before = time.perf_counter()
    index = open_index(folder / "index")
    open_s = time.perf_counter() - before
    before = time.perf_counter()
    open_index(folder / "index", verify=False).close()
    unverified_s = time.perf_counter() - before
    size_bytes = sum(info.bytes for info in index.manifest.files.values())
    rows = _time_rows(Retriever(given, index), index, queries, given)
    for name, value in (
        ("open, verified, s", open_s),
        ("open, not verified, s", unverified_s),
        ("bytes a passage", size_bytes / len(index)),
        ("of them its vector", 4.0 * given.dim),
        ("build less embedding, CPU s", build_s),
        ("recall@100 of exact, in the manifest", index.manifest.dense.recall),
        ("recall@10 of exact, these queries", _recall(index, given.encode_queries(queries), 10)),
        ("recall@100 of exact, these queries", _recall(index, given.encode_queries(queries), 100)),
        (
            "peak memory of this process, MB",
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        ),
    ):
        rows.append(
            {"passages": len(index), "what": f"{name} ({index.manifest.dense.kind})", "p50": value}
        )
    index.close()
    return rows


def _time_rows(
    retriever: Retriever, index: Index, queries: list[str], given: GivenVectors
) -> list[Row]:
    ours, bare = _ours(retriever, queries), _bare(index, queries, given)
    bare_p50 = float(np.percentile(bare["bare bm25s + FAISS"], 50))
    rows: list[Row] = []
    for stage, spent in {**ours, **bare}.items():
        p50, p95 = np.percentile(spent[N_FIRST:], [50, 95]).tolist()
        row: Row = {"passages": len(index), "what": f"{stage}, ms", "p50": p50, "p95": p95}
        if stage not in ("embed", "whole retrieve"):
            row["times bare"] = p50 / bare_p50
        rows.append(row)
    return rows


def _ours(retriever: Retriever, queries: list[str]) -> Times:
    spent: Times = {}

    async def run() -> None:
        for query in queries:
            started = time.perf_counter()
            retrieval = await retriever.retrieve(query, K)
            whole = (time.perf_counter() - started) * 1000
            stages = dict(retrieval.latency_ms)
            for stage, ms in {
                **stages,
                "all stages but embed": sum(stages.values()) - stages["embed"],
                "added to embed": whole - stages["embed"],  # BM25 runs while the model does
                "whole retrieve": whole,
            }.items():
                spent.setdefault(stage, []).append(ms)

    asyncio.run(run())
    return spent


def _bare(index: Index, queries: list[str], given: GivenVectors) -> Times:
    """bm25s.tokenize + retrieve and an exact FAISS search as their manuals show them, no fusion."""
    stemmer = Stemmer.Stemmer("english")
    texts = [index.passages[row].indexed_text for row in range(len(index))]
    options = {"stopwords": "english", "stemmer": stemmer, "show_progress": False}
    bm25 = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
    bm25.index(bm25s.tokenize(texts, **options), show_progress=False)
    flat = faiss.IndexFlatIP(given.dim)
    flat.add(index.dense.vectors(np.arange(len(index))))
    spent: Times = {"bare bm25s": [], "bare FAISS, flat": [], "bare bm25s + FAISS": []}
    for query, embedding in zip(queries, given.encode_queries(queries), strict=True):
        started = time.perf_counter()
        bm25.retrieve(bm25s.tokenize([query], **options), k=DEPTH, show_progress=False)
        between = time.perf_counter()
        flat.search(embedding[None, :], DEPTH)
        ended = time.perf_counter()
        spent["bare bm25s"].append((between - started) * 1000)
        spent["bare FAISS, flat"].append((ended - between) * 1000)
        spent["bare bm25s + FAISS"].append((ended - started) * 1000)
    return spent


def _recall(index: Index, query_embeddings: Float32Array, k: int) -> float:
    """Mean share of the exact nearest k that the index finds when it looks DEPTH deep."""
    vectors = index.dense.vectors(np.arange(len(index)))
    exact = faiss.knn(query_embeddings, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)[1]
    found = [index.dense.search(embedding, DEPTH)[1][:k] for embedding in query_embeddings]
    shared = [len(np.intersect1d(*pair)) for pair in zip(found, exact, strict=True)]
    return sum(shared) / exact.size


def to_table(rows: list[Row]) -> str:
    lines = ["| passages | what | p50 | p95 | times bare |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [
            f"{row[name]:.3f}" if isinstance(row.get(name), float) else ""
            for name in ("p50", "p95", "times bare")
        ]
        lines.append(f"| {row['passages']} | {row['what']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def chart(rows: list[Row]) -> str:
    """Time over size, ours beside bare."""
    figure = Chart("Time of a search beyond its embedding, p50", "passages", "milliseconds")
    for name, label in (
        ("added to embed, ms", "ragrelay, fusion and reading 10 hits included"),
        ("bare bm25s + FAISS, ms", "bm25s + FAISS flat, bare"),
    ):
        points = [row for row in rows if row["what"] == name]
        figure.line(label, [(float(row["passages"]), float(row["p50"])) for row in points])  # type: ignore[arg-type]
    return figure.to_svg()


def questions(squad: Path) -> list[str]:
    """One a paragraph. Raises OSError."""
    with tempfile.TemporaryDirectory() as folder:
        if SMOKE:
            squad = Path(folder) / "squad.json"
            write_squad(squad)
        if not squad.exists():
            raise FileNotFoundError(f"no file {squad}")
        paragraphs = list(read_squad(squad).paragraphs())
    return [qa.question for _, _, paragraph in paragraphs for qa in paragraph.qas[:1]]


def main() -> None:
    print_header()
    try:
        queries = questions(Path(sys.argv[1]) if len(sys.argv) > 1 else DATA)
        rows = bench(queries[:: max(1, len(queries) // N_QUERIES)])
    except (OSError, CalledProcessError) as exc:
        sys.exit(
            f"no data: {exc}; give the path of SQuAD's dev-v1.1.json(.gz); the texts to search "
            "come from Debian's mirror through apt-get"
        )
    print(to_table(rows))
    if SMOKE:
        return
    CHART.parent.mkdir(parents=True, exist_ok=True)
    CHART.write_text(chart(rows))


if __name__ == "__main__":
    main()
