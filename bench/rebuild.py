"""One document of 100,000 changed: what a new generation costs, and what filters cost a search.

python -m bench.rebuild [PASSAGES]

Texts are made up (Zipf's law over 60,000 words, 90 a text), vectors are points around 2,000
centres. "Bare" is the libraries' own work for the same: bm25s counts, weighs and saves texts that
are tokenised already, FAISS trains, fills and writes the same index. CPU is that of all threads and
of the process that puts the files together.
"""

import asyncio
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import bm25s
import faiss
import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from bench.support.sizes import at_size
from bench.support.tables import print_header
from retrieval.build import assembly
from retrieval.build.build import build_documents
from retrieval.index.filters import EVERYTHING, View, parse_filters
from retrieval.index.index import SPARSE, Index, open_index
from retrieval.index.terms import TermCounts
from retrieval.search.clock import Clock
from retrieval.search.ranking import Ranker
from retrieval.types import Document, Float32Array

N_PASSAGES = at_size(100_000, 1_000)
DIM = 384
N_CENTRES = at_size(2_000, 20)
SPREAD = 0.03
"""Of each of 384 dimensions: a point's cosine to its centre is 0.86."""
WORDS = at_size(60_000, 2_000)
WORDS_PER_TEXT = 90
TICK_S = 0.005
IDLE_S = at_size(2.0, 0.2)
N_SEARCHES = at_size(100, 5)

Row = tuple[str, str]


class Embedder:
    """A vector drawn for each text, around a centre that the text's hash decides."""

    model_id, revision, dim, max_tokens = "bench/points", "1", DIM, 256

    def __init__(self) -> None:
        self.tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
        self.tokenizer.pre_tokenizer = Whitespace()
        self._centres = _unit(np.random.default_rng(0).standard_normal((N_CENTRES, DIM)))

    def encode_passages(self, texts: Sequence[str], *, progress: Any = None) -> Float32Array:
        rng = np.random.default_rng(len(texts[0]))
        centres = self._centres[rng.integers(N_CENTRES, size=len(texts))]
        return _unit(centres + SPREAD * rng.standard_normal((len(texts), DIM)))

    encode_queries = encode_passages

    async def embed(self, query: str) -> Float32Array:
        vector: Float32Array = self.encode_passages([query])[0]
        return vector


def _unit(vectors: np.ndarray) -> Float32Array:
    unit: Float32Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(unit, dtype=np.float32)


def documents(n: int) -> list[Document]:
    rng = np.random.default_rng(1)
    words = np.array([f"word{number}" for number in range(WORDS)])
    share = 1 / np.arange(1, WORDS + 1)
    chosen = rng.choice(WORDS, size=(n, WORDS_PER_TEXT), p=share / share.sum())
    return [
        Document(f"d{number}", "", " ".join(words[chosen[number]]), {"of100": number % 100})
        for number in range(n)
    ]


def bench_build(n: int, folder: Path) -> list[Row]:
    corpus, embedder = documents(n), Embedder()

    def build(seq: int) -> None:
        build_documents(folder, corpus, embedder, seq=seq)

    rows = [(f"nothing, for {IDLE_S:.1f} s", _shown(*_watched(lambda: time.sleep(IDLE_S))))]
    wall_s, cpu_s, lag = _watched(lambda: build(1))
    rows.append((f"{n} documents from nothing", _shown(wall_s, cpu_s, lag)))
    bare_s = _bare(open_index(folder, verify=False))
    rows.append(("bare bm25s and FAISS", f"{bare_s:.1f} s of CPU"))
    for seq, place in enumerate((5, n // 2, n - 3), start=2):
        corpus[place] = Document(f"d{place}", "", f"changed to something else {seq}")
        wall_s, cpu_s, lag = _watched(partial(build, seq))
        shown = f"{_shown(wall_s, cpu_s, lag)}; {cpu_s / bare_s:.2f} of bare"
        rows.append(("one of them changed", shown))
    assembly.INLINE_PASSAGES = n + 1
    corpus[7] = Document("d7", "", "changed to something else again")
    wall_s, cpu_s, lag = _watched(lambda: build(9))
    rows.append(("the same within the process that serves", _shown(wall_s, cpu_s, lag)))
    return rows


def bench_filters(folder: Path) -> list[Row]:
    index = open_index(folder)
    few = {"of100": {"lt": 1}}
    views = {
        "unfiltered": EVERYTHING,
        "99 % seen": View(filters=parse_filters({"of100": {"ne": 3}})),
        "50 % seen": View(filters=parse_filters({"of100": {"lt": 50}})),
        "10 % seen": View(filters=parse_filters({"of100": {"lt": 10}})),
        "1 % seen": View(filters=parse_filters(few)),
    }
    ranker, embedder = Ranker(), Embedder()
    queries = [f"word{n} word{3 * n} word{900 + n}" for n in range(N_SEARCHES)]
    vectors = embedder.encode_queries(queries)

    def search(view: View, number: int) -> None:
        among = index.visibility.selection(view)
        scores = index.sparse.scores(queries[number], among=among)
        ranker.rank(index, vectors[number], scores, among=among, clock=Clock())

    rows = []
    faiss.omp_set_num_threads(1)
    for name, view in views.items():
        began = time.perf_counter()
        index.visibility.selection(view)
        first_ms = (time.perf_counter() - began) * 1000
        spent = []
        for number in range(N_SEARCHES):
            began = time.perf_counter()
            search(view, number)
            spent.append((time.perf_counter() - began) * 1000)
        rows.append((name, f"{statistics.median(spent):.2f} ms, its rows once {first_ms:.2f} ms"))
    return rows


def _watched(work: Callable[[], None]) -> tuple[float, float, tuple[float, float]]:
    """Seconds, CPU seconds, and how late a loop in this process was woken: (p99, most) in ms."""

    async def watch() -> list[float]:
        working = asyncio.create_task(asyncio.to_thread(work))
        late = []
        while not working.done():
            began = time.perf_counter()
            await asyncio.sleep(TICK_S)
            late.append((time.perf_counter() - began - TICK_S) * 1000)
        await working
        return late

    began, cpu_began = time.monotonic(), _cpu_s()
    late = sorted(asyncio.run(watch()))
    lag = (late[int(0.99 * len(late))], late[-1])
    return time.monotonic() - began, _cpu_s() - cpu_began, lag


def _bare(index: Index) -> float:
    """CPU seconds of the libraries alone for the same BM25 and dense index."""
    counted = TermCounts.load(index.directory / SPARSE)
    tokens = [
        np.repeat(counted.ids[first:end], counted.counts[first:end]).tolist()
        for first, end in zip(counted.starts[:-1], counted.starts[1:], strict=True)
    ]
    numbers = {term: number for number, term in enumerate(counted.vocabulary)}
    vectors = index.dense.vectors(np.arange(len(index)))
    with tempfile.TemporaryDirectory() as folder:
        began = _cpu_s()
        bm25 = bm25s.BM25()
        bm25.index((tokens, numbers), show_progress=False)
        bm25.save(folder, show_progress=False)
        info = index.manifest.dense
        if info.kind == "flat":
            dense: faiss.Index = faiss.IndexFlatIP(DIM)
        else:
            quantizer = faiss.IndexFlatIP(DIM)
            dense = faiss.IndexIVFFlat(quantizer, DIM, info.nlist, faiss.METRIC_INNER_PRODUCT)
            dense.cp.niter, dense.cp.max_points_per_centroid = 10, 64
            dense.train(vectors)
        dense.add(vectors)
        faiss.write_index(dense, f"{folder}/dense.faiss")
        return _cpu_s() - began


def _cpu_s() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _shown(wall_s: float, cpu_s: float, lag: tuple[float, float]) -> str:
    late = f"loop woken late by {lag[0]:.0f} ms (p99), {lag[1]:.0f} (most)"
    return f"{wall_s:.1f} s, {cpu_s:.1f} s of CPU; {late}"


def main() -> None:
    print_header()
    n = int(sys.argv[1]) if len(sys.argv) > 1 else N_PASSAGES
    with tempfile.TemporaryDirectory() as folder:
        rows = [*bench_build(n, Path(folder)), *bench_filters(Path(folder))]
    print("\n".join(["| rebuild | |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows), ""]))


if __name__ == "__main__":
    main()
