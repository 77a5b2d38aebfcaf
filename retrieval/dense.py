"""Dense search: a FAISS inner-product index, memory-mapped, exact as long as that is fast.

Up to FLAT_MOST passages every vector is compared; beyond, an inverted file (IVF) looks through the
nearest lists alone, as many as it takes to find RECALL of what an exact search finds. Scores are
exact cosines either way.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import faiss
import msgspec
import numpy as np

from retrieval.types import DeviceUnavailable, Float32Array, IndexCorrupt, Rows

FLAT_MOST = 20_000
"""One core compares 20,000 vectors of 384 dimensions in 1.6 ms, 100,000 in 11.6.

At 100,000 IVF takes 1.6 ms for 0.984 of the nearest 100 and 12 s to build; HNSW (M=16) 0.7 ms for
0.982 and 30 s, and it neither moves to a GPU nor forgets a passage.
"""

RECALL = 0.98
NEAREST = 100
"""How deep recall is measured: as deep as fusion looks."""

LISTS_PER_ROOT = 4
TRAINED_PER_LIST = 64
ITERATIONS = 10
FEWEST_PROBES = 8


class DenseInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of how an index was built; part of its manifest."""

    kind: Literal["flat", "ivf"] = "flat"
    nlist: int = 0
    nprobe: int = 0
    recall: float = 1.0
    """Share of the exact nearest 100 passages that a search finds, mean over `sample`."""
    sample: int = 0
    """Queries that recall was measured on; 0 where it is exact by construction."""


def build_dense(
    passage_embeddings: Float32Array, path: Path, sample_queries: Callable[[], Float32Array]
) -> DenseInfo:
    """Write (n, dim) L2-normalised embeddings as an index file.

    `sample_queries` (m, dim) is asked for where the search will not be exact: embeddings of texts
    like those that will be searched for.
    """
    embeddings = np.ascontiguousarray(passage_embeddings, dtype=np.float32)
    index: faiss.IndexFlat | faiss.IndexIVFFlat
    if len(embeddings) > FLAT_MOST:
        index, info = _build_ivf(embeddings, sample_queries())
    else:
        index, info = faiss.IndexFlatIP(embeddings.shape[1]), DenseInfo()
        index.add(embeddings)
    # Through Python's own file, so that a full disk is an OSError and not FAISS's.
    path.write_bytes(faiss.serialize_index(index).data)
    return info


def _build_ivf(
    embeddings: Float32Array, queries: Float32Array
) -> tuple[faiss.IndexIVFFlat, DenseInfo]:
    n, dim = embeddings.shape
    nlist = round(LISTS_PER_ROOT * n**0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, nlist, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = ITERATIONS
    index.cp.min_points_per_centroid = 1  # else FAISS writes to stderr
    index.cp.max_points_per_centroid = TRAINED_PER_LIST
    index.train(embeddings)
    index.add(embeddings)
    nearest = faiss.knn(queries, embeddings, NEAREST, metric=faiss.METRIC_INNER_PRODUCT)[1]
    index.nprobe = FEWEST_PROBES
    while (recall := _recall(index, queries, nearest)) < RECALL and index.nprobe < nlist:
        index.nprobe = min(2 * index.nprobe, nlist)
    return index, DenseInfo("ivf", nlist, index.nprobe, round(recall, 4), len(queries))


def _recall(index: faiss.IndexIVFFlat, queries: Float32Array, nearest: Rows) -> float:
    """Mean share of `nearest` (queries, k) that the index finds among its own best k."""
    found = index.search(queries, nearest.shape[1])[1]
    shared = [len(np.intersect1d(ours, exact)) for ours, exact in zip(found, nearest, strict=True)]
    return sum(shared) / nearest.size


class DenseIndex:
    """May be searched from any thread."""

    def __init__(self, index: faiss.IndexFlat | faiss.IndexIVFFlat, *, device: str = "cpu") -> None:
        """`device` "cuda" searches a copy on the first GPU. Raises DeviceUnavailable."""
        self._index = index
        self._searched = _GpuCopy(index) if device == "cuda" else index
        self._vectors = None
        if isinstance(index, faiss.IndexFlat):
            self._vectors = _view(index)
        else:
            index.make_direct_map()  # row → place in its list

    @classmethod
    def load(cls, path: Path, *, device: str = "cpu") -> "DenseIndex":
        try:
            index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as exc:
            raise IndexCorrupt(f"{path} is not a readable FAISS index: {exc}") from exc
        if not isinstance(index, faiss.IndexFlat | faiss.IndexIVFFlat):
            raise IndexCorrupt(f"{path} holds a {type(index).__name__}, not a flat or IVF index")
        return cls(index, device=device)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def dim(self) -> int:
        return int(self._index.d)

    def search(self, query_embedding: Float32Array, k: int) -> tuple[Float32Array, Rows]:
        """Cosines and rows of the best `k`, best first; fewer where the lists hold fewer."""
        scores, rows = self._searched.search(query_embedding[None, :], min(k, len(self)))
        found = rows[0] >= 0
        return scores[0][found], rows[0][found]

    def scores_of(self, query_embedding: Float32Array, rows: Rows) -> Float32Array:
        """Exact cosines of the given rows."""
        cosines: Float32Array = self.vectors(rows) @ query_embedding
        return cosines

    def vectors(self, rows: Rows) -> Float32Array:
        """(len(rows), dim)"""
        if self._vectors is not None:
            return self._vectors[rows]
        vectors: Float32Array = self._index.reconstruct_batch(rows)
        return vectors


class _GpuCopy:
    """FAISS's GPU resources serve one thread at a time."""

    def __init__(self, index: faiss.Index) -> None:
        if not hasattr(faiss, "index_cpu_to_gpu") or faiss.get_num_gpus() == 0:
            raise DeviceUnavailable(
                "RETRIEVAL_DEVICE=cuda needs a GPU and FAISS for it:"
                " pip uninstall faiss-cpu && pip install 'ragrelay[gpu]'"
            )
        self._resources: Any = faiss.StandardGpuResources()
        self._copy = faiss.index_cpu_to_gpu(self._resources, 0, index)
        self._turn = threading.Lock()

    def search(self, queries: Float32Array, k: int) -> tuple[Float32Array, Rows]:
        with self._turn:
            scores, rows = self._copy.search(queries, k)
            return scores, rows


def _view(index: faiss.IndexFlat) -> Float32Array:
    """The index's own memory as (n, dim): no second copy of the vectors."""
    if index.ntotal == 0:
        return np.empty((0, index.d), dtype=np.float32)
    flat: Float32Array = faiss.rev_swig_ptr(index.get_xb(), index.ntotal * index.d)
    return flat.reshape(index.ntotal, index.d)
