"""Haystack's in-memory hybrid retrieval, in the environment that `bench.peers_retrieval` makes.

peers_retrieval_haystack.py FOLDER
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

import numpy as np
from haystack import Document
from haystack.components.joiners import DocumentJoiner
from haystack.components.retrievers.in_memory import (
    InMemoryBM25Retriever,
    InMemoryEmbeddingRetriever,
)
from haystack.document_stores.in_memory import InMemoryDocumentStore

DEPTH = 100
K = 10


def main(folder: Path) -> None:
    documents = json.loads((folder / "documents.json").read_text())
    queries = json.loads((folder / "queries.json").read_text())
    vectors, query_vectors = np.load(folder / "documents.npy"), np.load(folder / "queries.npy")
    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    started = time.perf_counter()
    store.write_documents(
        [
            Document(id=str(row), content=text, embedding=vector.tolist())
            for row, (text, vector) in enumerate(zip(documents, vectors, strict=True))
        ]
    )
    written_s = time.perf_counter() - started
    sparse = InMemoryBM25Retriever(store, top_k=DEPTH)
    dense = InMemoryEmbeddingRetriever(store, top_k=DEPTH)
    joiner = DocumentJoiner(join_mode="reciprocal_rank_fusion", top_k=K)
    spent, runs = [], []
    for query, vector in zip(queries, query_vectors, strict=True):
        started = time.perf_counter()
        found = [
            sparse.run(query=query)["documents"],
            dense.run(query_embedding=vector.tolist())["documents"],
        ]
        joined = joiner.run(documents=found)["documents"]
        spent.append((time.perf_counter() - started) * 1000)
        runs.append([int(document.id) for document in joined])
    figures = {"ms": spent, "runs": runs, "written_s": written_s}
    (folder / "haystack.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
