"""Our retrieval beside Haystack's in-memory retrievers: the same passages, vectors and questions.

python -m bench.peers_retrieval [SQUAD_JSON]

Haystack is installed into an environment that is thrown away; the index is kept for the next run.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np

from retrieval.build.build import build_index
from retrieval.evaluation.evaluation import load_squad
from retrieval.evaluation.metrics import bootstrap, ndcg_at
from retrieval.index.index import Index, open_index
from retrieval.models.embedder import Embedder, load_embedder
from retrieval.models.resolve import MINILM
from retrieval.search.retriever import Retriever
from retrieval.types import Float32Array

DATA = Path("../shared/data/squad/dev-v1.1.json.gz")
INDEX = Path(".venv/bench-data/squad")
HAYSTACK = "haystack-ai==3.4.0"
N_QUERIES = 200
K = 10


def bench(squad: Path) -> str:
    """A Markdown table: milliseconds a question beyond its embedding, nDCG@10."""
    embedder = load_embedder(MINILM, threads=1)
    build_index(INDEX, [squad], embedder)
    index = open_index(INDEX)
    questions, qrels = load_squad(squad)
    asked = dict(list(questions.items())[:: max(1, len(questions) // N_QUERIES)])
    query_embeddings = embedder.encode_queries(list(asked.values()))
    rows = []
    for name, (spent, runs) in {
        "ragrelay": _ours(embedder, index, list(asked.values()), query_embeddings),
        f"{HAYSTACK} (BM25 + embeddings, joined by RRF)": _haystack(
            index, list(asked.values()), query_embeddings
        ),
    }.items():
        ids = zip(asked, runs, strict=True)
        gains = np.array([[ndcg_at(run, qrels[id_], K) for id_, run in ids]])
        p50, p95 = np.percentile(spent, [50, 95]).tolist()
        rows.append(f"| {name} | {p50:.2f} | {p95:.2f} | {bootstrap(gains)[0]} |")
    passages = len(index)
    index.close()
    embedder.close()
    head = f"| {len(asked)} questions, {passages} passages | ms, p50 | p95 | nDCG@10 |"
    return "\n".join([head, "|---|---|---|---|", *rows])


def _ours(
    embedder: Embedder, index: Index, queries: list[str], query_embeddings: Float32Array
) -> tuple[list[float], list[list[str]]]:
    retriever = Retriever(embedder, index)
    spent, runs = [], []

    async def run() -> None:
        for query, embedding in zip(queries, query_embeddings, strict=True):
            started = time.perf_counter()
            found = await retriever.retrieve(query, K, query_embedding=embedding)
            spent.append((time.perf_counter() - started) * 1000)
            runs.append(list(dict.fromkeys(hit.passage.doc_id for hit in found.hits)))

    asyncio.run(run())
    return spent, runs


def _haystack(
    index: Index, queries: list[str], query_embeddings: Float32Array
) -> tuple[list[float], list[list[str]]]:
    passages = [index.passages[row] for row in range(len(index))]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        texts = [passage.indexed_text for passage in passages]
        (folder / "documents.json").write_text(json.dumps(texts))
        (folder / "queries.json").write_text(json.dumps(queries))
        np.save(folder / "documents.npy", index.dense.vectors(np.arange(len(index))))
        np.save(folder / "queries.npy", query_embeddings)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / "bin" / "python"
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, HAYSTACK], check=True)
        program = Path(__file__).with_name("peers_retrieval_haystack.py")
        subprocess.run([python, program, folder], check=True)
        figures = json.loads((folder / "haystack.json").read_text())
    runs = [list(dict.fromkeys(passages[row].doc_id for row in rows)) for rows in figures["runs"]]
    return figures["ms"], runs


def main() -> None:
    squad = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    if not squad.exists():
        print(f"no data at {squad}; give the path of SQuAD's dev-v1.1.json(.gz)")
        return
    try:
        print(bench(squad))
    except subprocess.CalledProcessError as exc:
        print(f"{HAYSTACK} could not be installed or run: {exc}")


if __name__ == "__main__":
    main()
