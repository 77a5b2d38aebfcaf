"""What decides how an index is built: FAISS's kinds by size, the rate of building, BM25's makers.

python -m bench.retrieval_scale [kinds|build|bm25 …]   (all of them without a name)
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

import faiss
import msgspec
import numpy as np
from rank_bm25 import BM25Okapi

from bench.retrieval_chart import Chart
from bench.retrieval_texts import derived_vectors, real_texts, real_vectors
from bench.support.tables import print_header
from retrieval.build.build import build_index
from retrieval.index.dense import DenseIndex, build_dense
from retrieval.index.sparse import SparseIndex, SparseInfo, best_rows, terms, write_sparse
from retrieval.index.terms import count_terms
from retrieval.models.embedder import BATCH, load_embedder
from retrieval.models.resolve import MINILM, resolve_model
from retrieval.models.torch_encoder import load_model
from retrieval.types import Float32Array

SIZES = (5_000, 10_000, 20_000, 50_000, 100_000)
N_QUERIES = 200
N_BUILT = 512
N_BM25 = 20_000
DEPTH = 100
CHART = Path("docs/figures/retrieval-recall.svg")

Row = tuple[str, str]


def bench_kinds() -> list[Row]:
    """Search time, recall of the exact nearest 100 and build time of flat, IVF and HNSW."""
    faiss.omp_set_num_threads(1)
    seeds, queries = _seeds_and_queries()
    rows: list[Row] = []
    chart = Chart(
        "Share of the exact nearest 100 that is missed at 100,000", "µs a query", "percent"
    )
    for n in SIZES:
        vectors = derived_vectors(seeds, n)
        exact = faiss.IndexFlatIP(vectors.shape[1])
        exact.add(vectors)
        nearest = exact.search(queries, DEPTH)[1]
        flat_us = _us(lambda query, index=exact: index.search(query, DEPTH), queries)
        rows.append((f"{n} flat", f"{flat_us:.0f} µs"))
        rows.append(_ours(n, vectors, queries, nearest))
        for name, index, parameters in (("IVF", *_ivf(vectors)), ("HNSW", *_hnsw(vectors))):
            points = []
            started = time.process_time()
            index.train(vectors)
            index.add(vectors)
            built_s = time.process_time() - started
            for label, chosen in parameters:
                found = index.search(queries, DEPTH, params=chosen)[1]
                us = _us(lambda query, i=index, p=chosen: i.search(query, DEPTH, params=p), queries)
                missed = 100 * (1 - _shared(found, nearest))
                points.append((us, max(missed, 0.01)))
                rows.append(
                    (
                        f"{n} {name} {label}",
                        f"{us:.0f} µs, {missed:.2f} % missed, built {built_s:.1f} s",
                    )
                )
            if n == SIZES[-1]:
                chart.line(name, points)
    CHART.parent.mkdir(parents=True, exist_ok=True)
    CHART.write_text(chart.to_svg())
    return rows


def bench_build() -> list[Row]:
    """Building from real text beside encoding the same passages and nothing else."""
    texts = real_texts(N_BUILT)
    path = resolve_model(MINILM)
    rows: list[Row] = []
    for backend in ("torch", "onnx"):
        embedder = load_embedder(MINILM, threads=1, backend=backend)
        with tempfile.TemporaryDirectory() as folder:
            corpus = Path(folder) / "corpus.jsonl"
            records = (msgspec.json.encode({"id": n, "text": text}) for n, text in enumerate(texts))
            corpus.write_bytes(b"\n".join(records))
            started = time.process_time()
            report = build_index(Path(folder) / "index", [corpus], embedder)
            build_s = time.process_time() - started
        embedder.close()
        rows.append((f"build, {backend}", f"{report.passages / build_s:.1f} passages a CPU second"))
    model = load_model(path, "cpu")
    import torch

    torch.set_num_threads(1)
    started = time.process_time()
    model.encode(texts, batch_size=BATCH, show_progress_bar=False)
    encode_s = time.process_time() - started
    rows.append(("bare encode, torch", f"{len(texts) / encode_s:.1f} texts a CPU second"))
    return rows


def bench_bm25() -> list[Row]:
    """bm25s through our index, and rank-bm25: the same formula, the same first ten, the time."""
    texts = real_texts(N_BM25)
    queries = [" ".join(text.split()[20:28]) for text in texts[:: N_BM25 // 40]]
    robertson = SparseInfo(method="robertson")
    with tempfile.TemporaryDirectory() as folder:
        write_sparse(count_terms(texts, terms), Path(folder), robertson)
        index = SparseIndex.load(Path(folder), robertson)
        judge = BM25Okapi([terms(text) for text in texts], k1=robertson.k1, b=robertson.b)
        same = 0
        for query in queries:
            expected = judge.get_scores(terms(query))
            rows = best_rows(index.scores(query), 10)
            same += bool(
                np.allclose(expected[rows], np.sort(expected)[::-1][: len(rows)], rtol=1e-5)
            )
        ours = _us(lambda query: best_rows(index.scores(query), 10), queries)
        theirs = _us(lambda query: _best(judge.get_scores(terms(query))), queries)
    return [
        (f"bm25s in our index, {N_BM25} texts", f"{ours / 1000:.2f} ms"),
        ("rank-bm25", f"{theirs / 1000:.1f} ms, {theirs / ours:.0f} times as long"),
        ("the same first ten", f"{same} of {len(queries)} queries"),
    ]


def _ours(n: int, vectors: Float32Array, queries: Float32Array, nearest: np.ndarray) -> Row:
    """As `build_dense` decides, its recall on queries that it has not seen."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dense.faiss"
        started = time.process_time()
        info = build_dense(vectors, path, lambda: queries[::2])
        built_s = time.process_time() - started
        index = DenseIndex.load(path)
        us = _us(lambda query: index.search(query[0], DEPTH), queries)
        unseen = [index.search(query, DEPTH)[1] for query in queries[1::2]]
        missed = 100 * (1 - _shared(np.array(unseen), nearest[1::2]))
    chosen = f"{info.kind}, nprobe {info.nprobe} of {info.nlist}"
    return f"{n} ours ({chosen})", f"{us:.0f} µs, {missed:.2f} % missed, built {built_s:.1f} s"


def _ivf(vectors: Float32Array) -> tuple[faiss.Index, list[tuple[str, Any]]]:
    n, dim = vectors.shape
    nlist = round(4 * n**0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, nlist, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.max_points_per_centroid = 10, 64
    index.cp.min_points_per_centroid = 1
    probes = (16, 32, 64, 128, 256)
    return index, [(f"nprobe {p}", faiss.SearchParametersIVF(nprobe=p)) for p in probes]  # type: ignore[call-arg]


def _hnsw(vectors: Float32Array) -> tuple[faiss.Index, list[tuple[str, Any]]]:
    index = faiss.IndexHNSWFlat(vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 100
    depths = (100, 200, 300, 500)
    parameters = faiss.SearchParametersHNSW  # type: ignore[attr-defined]
    return index, [(f"efSearch {d}", parameters(efSearch=d)) for d in depths]


def _seeds_and_queries() -> tuple[Float32Array, Float32Array]:
    """Vectors to derive from, and of things to look for: eight words out of a text each."""
    embedder = load_embedder(MINILM, threads=1)
    texts = real_texts(N_QUERIES * 10)
    seeds = real_vectors()
    seeds = embedder.encode_passages(texts[:200]) if seeds is None else seeds
    queries = embedder.encode_queries([" ".join(text.split()[30:38]) for text in texts[::10]])
    embedder.close()
    return seeds, queries


def _us(search: Callable[..., object], queries: np.ndarray | list[str]) -> float:
    spent = []
    for query in queries:
        given = query if isinstance(query, str) else query[None, :]
        started = time.perf_counter()
        search(given)
        spent.append((time.perf_counter() - started) * 1e6)
    return float(np.median(spent))


def _shared(found: np.ndarray, nearest: np.ndarray) -> float:
    return (
        sum(len(np.intersect1d(*pair)) for pair in zip(found, nearest, strict=True)) / nearest.size
    )


def _best(scores: np.ndarray) -> np.ndarray:
    return np.argsort(scores)[::-1][:10]


BENCHES = {"kinds": bench_kinds, "build": bench_build, "bm25": bench_bm25}


def main() -> None:
    print_header()
    for name in sys.argv[1:] or BENCHES:
        try:
            rows = BENCHES[name]()
        except (OSError, CalledProcessError) as exc:
            print(f"no texts: {exc}; they come from Debian's mirror through apt-get")
            return
        print("\n".join([f"| {name} | |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows), ""]))


if __name__ == "__main__":
    main()
