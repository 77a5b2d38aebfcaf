import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.index import dense
from retrieval.index.dense import NEAREST, RECALL, DenseIndex, DenseInfo, build_dense
from retrieval.types import DeviceUnavailable, IndexCorrupt
from tests.retrieval.index.vectors import no_queries, unit_vectors


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    vectors = unit_vectors(300, 16)
    path = tmp_path_factory.mktemp("dense") / "dense.faiss"
    assert build_dense(vectors, path, no_queries) == DenseInfo("flat", recall=1.0)
    return vectors, DenseIndex.load(path)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, 400))
def test_search_any_query_equals_brute_force(built, seed, k):
    vectors, index = built
    query = unit_vectors(1, 16, seed)[0]
    cosines = vectors @ query
    scores, rows = index.search(query, k)
    assert len(rows) == min(k, 300)
    np.testing.assert_allclose(scores, np.sort(cosines)[::-1][:k], atol=1e-6)
    np.testing.assert_allclose(cosines[rows], scores, atol=1e-6)


def test_scores_of_rows_are_exact_cosines(built):
    vectors, index = built
    rows = np.array([299, 0, 7])
    query = unit_vectors(1, 16, 5)[0]
    np.testing.assert_allclose(index.scores_of(query, rows), vectors[rows] @ query, atol=1e-6)


def test_vectors_come_back_bit_for_bit(built):
    vectors, index = built
    assert (index.vectors(np.arange(300)) == vectors).all()
    assert (len(index), index.dim) == (300, 16)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """More vectors than are searched one by one, and queries of the same distribution."""
    rng = np.random.default_rng(1)
    centres = unit_vectors(60, 32, seed=2)
    vectors = centres[rng.integers(60, size=4000)] + 0.1 * unit_vectors(4000, 32, seed=3)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[::40] + 0.05 * unit_vectors(100, 32, seed=4)
    return vectors, np.ascontiguousarray(queries / np.linalg.norm(queries, axis=1, keepdims=True))


@pytest.fixture
def ivf(many, tmp_path, monkeypatch):
    monkeypatch.setattr(dense, "FLAT_MOST", 3999)
    vectors, queries = many
    info = build_dense(vectors, tmp_path / "ivf.faiss", lambda: queries)
    return info, DenseIndex.load(tmp_path / "ivf.faiss")


def test_build_many_measures_recall_as_brute_force_does(many, ivf):
    vectors, queries = many
    info, index = ivf
    assert (info.kind, info.sample) == ("ivf", 100)
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :NEAREST]
    found = [set(index.search(query, NEAREST)[1].tolist()) for query in queries]
    shares = [
        len(rows & set(best)) / NEAREST for rows, best in zip(found, exact.tolist(), strict=True)
    ]
    assert info.recall == pytest.approx(np.mean(shares), abs=2e-3)
    assert info.recall >= RECALL
    assert info.nprobe < info.nlist == round(4 * 4000**0.5)


def test_build_hard_to_search_looks_into_every_list_if_need_be(tmp_path, monkeypatch):
    monkeypatch.setattr(dense, "FLAT_MOST", 500)
    vectors = unit_vectors(600, 64)
    info = build_dense(vectors, tmp_path / "x.faiss", lambda: unit_vectors(50, 64, seed=9))
    assert info.recall >= RECALL


def test_build_many_twice_writes_the_same_bytes(many, tmp_path, monkeypatch):
    monkeypatch.setattr(dense, "FLAT_MOST", 3999)
    for name in ("a", "b"):
        build_dense(many[0], tmp_path / name, lambda: many[1])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_ivf_scores_and_vectors_are_exact(many, ivf):
    vectors, queries = many
    index = ivf[1]
    rows = np.array([3999, 0, 7])
    assert (index.vectors(rows) == vectors[rows]).all()
    np.testing.assert_allclose(
        index.scores_of(queries[0], rows), vectors[rows] @ queries[0], atol=1e-6
    )
    scores, found = index.search(queries[0], 10)
    np.testing.assert_allclose(vectors[found] @ queries[0], scores, atol=1e-6)
    assert index.vectors(np.array([], dtype=np.int64)).shape == (0, 32)


def test_ivf_asked_for_more_than_its_lists_hold_gives_what_there_is(many, ivf):
    scores, rows = ivf[1].search(many[1][0], 4000)
    assert 0 < len(rows) == len(scores) <= 4000
    assert (rows >= 0).all()


def test_ivf_search_from_many_threads_agrees(many, ivf):
    from concurrent.futures import ThreadPoolExecutor

    def rows(n: int) -> list[int]:
        return ivf[1].search(many[1][n], 10)[1].tolist()

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(rows, range(100)))
    assert together == [rows(n) for n in range(100)]


@pytest.mark.skipif(hasattr(faiss, "index_cpu_to_gpu"), reason="this FAISS can use a GPU")
def test_load_for_cuda_without_it_says_what_to_install(built, tmp_path):
    build_dense(built[0], tmp_path / "x.faiss", no_queries)
    with pytest.raises(DeviceUnavailable, match=r"ragrelay\[gpu\]"):
        DenseIndex.load(tmp_path / "x.faiss", device="cuda")


def test_load_for_cuda_searches_the_copy_that_faiss_makes(built, tmp_path, monkeypatch):
    """FAISS for GPUs is not here: its two calls are stood in for, the search is real."""
    copies = []

    def to_gpu(resources, device, index):
        copies.append((resources, device))
        return faiss.clone_index(index)

    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: "resources", raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", to_gpu, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    build_dense(built[0], tmp_path / "x.faiss", no_queries)
    moved = DenseIndex.load(tmp_path / "x.faiss", device="cuda")
    query = unit_vectors(1, 16, 5)[0]
    assert copies == [("resources", 0)]
    assert moved.search(query, 5)[1].tolist() == built[1].search(query, 5)[1].tolist()
    assert moved.vectors(np.array([3])).tolist() == built[0][[3]].tolist()


def test_load_garbage_raises_index_corrupt(tmp_path):
    (tmp_path / "x.faiss").write_bytes(b"not an index at all")
    with pytest.raises(IndexCorrupt):
        DenseIndex.load(tmp_path / "x.faiss")


def test_load_other_kind_of_index_raises_index_corrupt(tmp_path):
    faiss.write_index(faiss.IndexHNSWFlat(4, 8), str(tmp_path / "x.faiss"))
    with pytest.raises(IndexCorrupt, match="IndexHNSWFlat"):
        DenseIndex.load(tmp_path / "x.faiss")


def test_load_is_memory_mapped(built, many, ivf, tmp_path):
    build_dense(built[0], tmp_path / "mapped.faiss", no_queries)
    index = DenseIndex.load(tmp_path / "mapped.faiss")
    with open("/proc/self/maps") as maps:
        mapped = maps.read()
    assert "mapped.faiss" in mapped
    assert "ivf.faiss" in mapped
    assert len(index) == 300
