"""Exact dense search: a FAISS flat inner-product index, memory-mapped."""

from pathlib import Path

import faiss
import numpy as np

from retrieval.types import Float32Array, IndexCorrupt, Rows


def build_dense(passage_embeddings: Float32Array, path: Path) -> None:
    """Write (n, dim) L2-normalised embeddings as an index file."""
    index = faiss.IndexFlatIP(passage_embeddings.shape[1])
    index.add(np.ascontiguousarray(passage_embeddings, dtype=np.float32))
    # Through Python's own file, so that a full disk is an OSError and not FAISS's.
    path.write_bytes(faiss.serialize_index(index).data)


class DenseIndex:
    def __init__(self, index: faiss.IndexFlat) -> None:
        self._index = index
        self._vectors = _view(index)

    @classmethod
    def load(cls, path: Path) -> "DenseIndex":
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as exc:
            raise IndexCorrupt(f"{path} is not a readable FAISS index: {exc}") from exc
        if not isinstance(index, faiss.IndexFlat):
            raise IndexCorrupt(f"{path} holds a {type(index).__name__}, not a flat index")
        return cls(index)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dim(self) -> int:
        return int(self._index.d)

    def search(self, query_embedding: Float32Array, k: int) -> tuple[Float32Array, Rows]:
        """Cosines and rows of the best `k`, best first."""
        scores, rows = self._index.search(query_embedding[None, :], min(k, len(self)))
        return scores[0], rows[0]

    def scores_of(self, query_embedding: Float32Array, rows: Rows) -> Float32Array:
        """Exact cosines of the given rows."""
        cosines: Float32Array = self._vectors[rows] @ query_embedding
        return cosines

    def vectors(self, rows: Rows) -> Float32Array:
        """(len(rows), dim)"""
        return self._vectors[rows]


def _view(index: faiss.IndexFlat) -> Float32Array:
    """The index's own memory as (n, dim): no second copy of the vectors."""
    if index.ntotal == 0:
        return np.empty((0, index.d), dtype=np.float32)
    flat: Float32Array = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
    return flat.reshape(index.ntotal, index.d)
