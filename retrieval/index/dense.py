"""Dense search: a FAISS inner-product index, memory-mapped, exact as long as that is fast.

Up to FLAT_MOST passages every vector is compared. Beyond, an inverted file (IVF) compares those of
the nearest lists alone, of as many lists as it takes to find RECALL of what an exact search finds.
Scores are exact cosines either way.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import faiss
import msgspec
import numpy as np

from retrieval.index.selection import Selection
from retrieval.types import DeviceUnavailable, Float32Array, IndexCorrupt, Rows

FLAT_MOST = 20_000
"""One core compares 20,000 vectors of 384 dimensions in 1.6 ms, 100,000 in 11.6.

At 100,000 IVF takes 1.6 ms for 0.984 of the nearest 100 and 12 s to build; HNSW (M=16) 0.7 ms for
0.982 and 30 s, and it neither moves to a GPU nor forgets a passage.
"""

RECALL = 0.98
NEAREST = 100
"""How deep recall is measured: as deep as fusion looks."""

# FAISS's guidelines: nlist from 4·sqrt(n), 30 to 256 training vectors a list.
# https://github.com/facebookresearch/faiss/wiki/Guidelines-to-choose-an-index
LISTS_PER_ROOT = 4
TRAINED_PER_LIST = 64
ITERATIONS = 10
"""Of k-means."""
FEWEST_PROBES = 8
OUTGROWN = 0.5
"""Share of the passages trained on that may come after; then the lists are drawn anew."""


class DenseInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an index was built; part of the manifest on disk."""

    kind: Literal["flat", "ivf"] = "flat"
    nlist: int = 0
    nprobe: int = 0
    recall: float = 1.0
    """Share of the exact nearest 100 passages that a search finds, mean over `sample`."""
    sample: int = 0
    """Queries that recall was measured on; 0 where it is exact by construction."""
    trained: int = 0
    """Passages that there were when the lists were last drawn anew."""
    added: int = 0
    """Passages put into the lists since."""


class Earlier(msgspec.Struct, frozen=True):
    """The index of the generation before, whose lists the new one may keep."""

    dense: "DenseIndex"
    info: DenseInfo
    rows: Rows
    """(n,): for each new row its row there, -1 where it has none."""


def build_dense(
    passage_embeddings: Float32Array,
    path: Path,
    sample_queries: Callable[[], Float32Array],
    *,
    earlier: Earlier | None = None,
) -> DenseInfo:
    """Write (n, dim) L2-normalised embeddings as an index file.

    `sample_queries` (m, dim) is asked for where the search will not be exact: embeddings of texts
    like those that will be searched for. Lists of an `earlier` index are kept unless they are
    outgrown or no longer find RECALL.
    """
    embeddings = np.ascontiguousarray(passage_embeddings, dtype=np.float32)
    index: faiss.IndexFlat | faiss.IndexIVFFlat
    if len(embeddings) > FLAT_MOST:
        index, info = _build_ivf(embeddings, sample_queries(), earlier)
    else:
        index, info = faiss.IndexFlatIP(embeddings.shape[1]), DenseInfo()
        index.add(embeddings)
    # Through Python's own file, so that a full disk is an OSError and not FAISS's.
    with path.open("wb") as file:
        faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))  # type: ignore[attr-defined]
    return info


def needs_training(n: int, added: int, earlier: DenseInfo | None) -> bool:
    """Whether an index of `n` passages, `added` of them new, needs lists and may not keep any."""
    if n <= FLAT_MOST:
        return False
    if earlier is None or earlier.kind != "ivf":
        return True
    most = OUTGROWN * earlier.trained
    return earlier.added + added > most or n < earlier.trained - most


def _build_ivf(
    embeddings: Float32Array, queries: Float32Array, earlier: Earlier | None
) -> tuple[faiss.IndexIVFFlat, DenseInfo]:
    nearest = faiss.knn(queries, embeddings, NEAREST, metric=faiss.METRIC_INNER_PRODUCT)[1]
    kept = _kept(embeddings, queries, nearest, earlier) if earlier else None
    return kept or _trained(embeddings, queries, nearest)


def _kept(
    embeddings: Float32Array, queries: Float32Array, nearest: Rows, earlier: Earlier
) -> tuple[faiss.IndexIVFFlat, DenseInfo] | None:
    """An index over the earlier one's lists; None where those are outgrown or lose recall.

    `nearest` (queries, NEAREST): rows that an exact search finds.
    """
    added = int((earlier.rows < 0).sum())
    if needs_training(len(embeddings), added, earlier.info):
        return None
    index = earlier.dense.with_vectors(embeddings, earlier.rows)
    recall = _recall(index, queries, nearest)
    if recall < RECALL and index.nprobe < index.nlist:  # with all lists probed it is exact
        return None
    info = msgspec.structs.replace(
        earlier.info,
        recall=round(recall, 4),
        sample=len(queries),
        added=earlier.info.added + added,
    )
    return index, info


def _trained(
    embeddings: Float32Array, queries: Float32Array, nearest: Rows
) -> tuple[faiss.IndexIVFFlat, DenseInfo]:
    """An index over lists drawn anew by k-means, with as few probes as RECALL takes."""
    n, dim = embeddings.shape
    nlist = round(LISTS_PER_ROOT * n**0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, nlist, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = ITERATIONS
    index.cp.min_points_per_centroid = 1  # else FAISS writes to stderr
    index.cp.max_points_per_centroid = TRAINED_PER_LIST
    index.train(embeddings)
    index.add(embeddings)
    index.nprobe = FEWEST_PROBES
    while (recall := _recall(index, queries, nearest)) < RECALL and index.nprobe < nlist:
        index.nprobe = min(2 * index.nprobe, nlist)
    info = DenseInfo("ivf", nlist, index.nprobe, round(recall, 4), len(queries), trained=n)
    return index, info


def _recall(index: faiss.IndexIVFFlat, queries: Float32Array, nearest: Rows) -> float:
    """Mean share of `nearest` (queries, k) that the index finds among its own best k."""
    found = index.search(queries, nearest.shape[1])[1]
    shared = [len(np.intersect1d(ours, exact)) for ours, exact in zip(found, nearest, strict=True)]
    return sum(shared) / nearest.size


class DenseIndex:
    """(n, dim) vectors by row, searched by cosine; from any thread."""

    def __init__(self, index: faiss.IndexFlat | faiss.IndexIVFFlat, *, device: str = "cpu") -> None:
        """`device` "cuda" searches a copy on the first GPU. Raises DeviceUnavailable."""
        self._index = index
        self._searched = _GpuCopy(index) if device == "cuda" else index
        self._vectors = None
        if isinstance(index, faiss.IndexFlat):
            self._vectors = _view(index)
        else:
            index.make_direct_map()  # row → place in its list, which `reconstruct_batch` needs

    @classmethod
    def load(cls, path: Path, *, device: str = "cpu") -> "DenseIndex":
        """Raises IndexCorrupt, DeviceUnavailable."""
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

    def with_vectors(self, embeddings: Float32Array, rows: Rows) -> faiss.IndexIVFFlat:
        """A new index over the same lists: `embeddings` (n, dim), each in the list of its row here.

        `rows` (n,): the vector's row in this index; where it is -1, the nearest list is looked for.
        """
        old, dim = self._index, self.dim
        assert isinstance(old, faiss.IndexIVFFlat), "a flat index has no lists. This is a bug."
        # A quantizer of its own: the new index must not borrow memory of one that may be closed.
        quantizer = faiss.IndexFlatIP(dim)
        quantizer.add(faiss.downcast_index(old.quantizer).reconstruct_n(0, old.nlist))
        new = faiss.IndexIVFFlat(quantizer, dim, old.nlist, faiss.METRIC_INNER_PRODUCT)
        new.is_trained, new.nprobe = True, old.nprobe
        places = faiss.vector_to_array(old.direct_map.array)
        lists = places[rows] >> 32  # a place is the list's number, then where in it
        if len(fresh := np.flatnonzero(rows < 0)):
            lists[fresh] = quantizer.search(embeddings[fresh], 1)[1][:, 0]
        # Not `add`, which would look for the nearest list of every vector once more.
        new.add_core(len(rows), faiss.swig_ptr(embeddings), None, faiss.swig_ptr(lists))
        return new

    def search(
        self, query_embedding: Float32Array, k: int, *, among: Selection | None = None
    ) -> tuple[Float32Array, Rows]:
        """Cosines and rows of the best `k`, best first; fewer where the probed lists hold fewer.

        `query_embedding` (dim,) of unit L2 norm; `among` None searches all rows.
        """
        if among is None:
            scores, rows = self._searched.search(query_embedding[None, :], min(k, len(self)))
        elif among.is_few:
            return self._compare(query_embedding, k, among.rows)
        else:
            # On the CPU even where there is a GPU: its indexes take no selector of rows.
            scores, rows = self._index.search(
                query_embedding[None, :], min(k, among.size), params=self._params(among)
            )
        found = rows[0] >= 0
        return scores[0][found], rows[0][found]

    def _compare(
        self, query_embedding: Float32Array, k: int, rows: Rows
    ) -> tuple[Float32Array, Rows]:
        scores = self.scores_of(query_embedding, rows)
        best = np.argsort(-scores, kind="stable")[:k]
        return scores[best], rows[best]

    def _params(self, among: Selection) -> Any:
        sel = faiss.IDSelectorBitmap(among.bits)  # type: ignore[call-arg, arg-type]
        if isinstance(self._index, faiss.IndexFlat):
            return faiss.SearchParameters(sel=sel)  # type: ignore[call-arg]
        # The nearest of a tenth lie in ten times as many lists, at the same number of comparisons.
        nprobe = min(self._index.nlist, round(self._index.nprobe / among.share))
        return faiss.SearchParametersIVF(sel=sel, nprobe=nprobe)  # type: ignore[call-arg]

    def scores_of(self, query_embedding: Float32Array, rows: Rows) -> Float32Array:
        """(len(rows),): exact cosines."""
        cosines: Float32Array = self.vectors(rows) @ query_embedding
        return cosines

    def vectors(self, rows: Rows) -> Float32Array:
        """(len(rows), dim)"""
        if self._vectors is not None:
            return self._vectors[rows]
        vectors: Float32Array = self._index.reconstruct_batch(rows)
        return vectors


class _GpuCopy:
    """A copy of an index on the first GPU; FAISS's GPU resources serve one thread at a time."""

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
