import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.dense import DenseIndex, build_dense
from retrieval.types import IndexCorrupt


def unit_vectors(n: int, dim: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    vectors = unit_vectors(300, 16)
    path = tmp_path_factory.mktemp("dense") / "dense.faiss"
    build_dense(vectors, path)
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


def test_load_garbage_raises_index_corrupt(tmp_path):
    (tmp_path / "x.faiss").write_bytes(b"not an index at all")
    with pytest.raises(IndexCorrupt):
        DenseIndex.load(tmp_path / "x.faiss")


def test_load_is_memory_mapped(built, tmp_path):
    build_dense(unit_vectors(10, 4), tmp_path / "mapped.faiss")
    index = DenseIndex.load(tmp_path / "mapped.faiss")
    with open("/proc/self/maps") as maps:
        assert "mapped.faiss" in maps.read()
    assert len(index) == 10
