from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.cache.semantic import SemanticIndex

THRESHOLDS = (0.85, 0.92, 0.97)


def clustered(n: int, dim: int, seed: int = 0) -> np.ndarray:
    """Like embeddings of questions: topics, near-duplicates inside them, far from uniform."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(dim) * 0.3
    topics = rng.standard_normal((max(1, n // 20), dim)) + common
    spread = rng.choice([0.1, 0.3, 0.6, 1.0], size=(n, 1))
    rows = topics[rng.integers(len(topics), size=n)] + spread * rng.standard_normal((n, dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def as_stored(rows: np.ndarray) -> np.ndarray:
    return rows.astype(np.float16).astype(np.float32)


def brute_force(rows: np.ndarray, query: np.ndarray, threshold: float) -> list[float]:
    similarities = np.sort(rows @ query)[::-1]
    return similarities[similarities >= threshold][:5].tolist()


@pytest.mark.parametrize(("n", "dim"), [(500, 384), (6000, 384), (20_000, 384), (6000, 100)])
def test_search_agrees_with_brute_force(n: int, dim: int) -> None:
    rows = clustered(n, dim)
    stored = as_stored(rows)
    index = SemanticIndex(dim, small=2048)
    for row, vector in enumerate(rows):
        index.add(str(row), vector, expires_at=10.0)
    queries = np.concatenate([rows[:: n // 100], clustered(100, dim, seed=0)])
    for query in queries:
        for threshold in THRESHOLDS:
            found = index.search(query, threshold, now=0.0)
            expected = brute_force(stored, query, threshold)
            assert np.allclose([near.similarity for near in found], expected, atol=2e-6)
            assert all(rows[int(near.id)] @ query >= threshold - 2e-3 for near in found)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("ard"), st.integers(0, 40)), max_size=150),
    st.sampled_from([1, 3, 16, 70]),
    st.sampled_from([8192, 64]),
)
def test_index_any_history_is_like_a_dict(
    steps: list[tuple[str, int]], dim: int, small: int
) -> None:
    index = SemanticIndex(dim, small=small)
    held: dict[str, Any] = {}
    pool = clustered(200, dim)
    for step, (what, number) in enumerate(steps):
        if what == "d":
            index.remove(str(number))
            held.pop(str(number), None)
        else:
            index.add(str(number), pool[step], expires_at=1.0 if what == "a" else 5.0)
            held[str(number)] = (pool[step], 1.0 if what == "a" else 5.0)
    assert len(index) == len(held)
    live = np.array([row for row, expires_at in held.values() if expires_at > 2.0])
    for query in pool[-5:]:
        found = index.search(query, 0.8, now=2.0)
        expected = brute_force(as_stored(live), query, 0.8) if len(live) else []
        assert np.allclose([near.similarity for near in found], expected, atol=2e-6)
        assert all(near.id in held for near in found)


def test_index_slots_are_used_again() -> None:
    index = SemanticIndex(32)
    rows = clustered(50, 32)
    for round in range(20):
        for row in range(50):
            index.add(f"{round}-{row}", rows[row], expires_at=1.0)
        for row in range(50):
            index.remove(f"{round}-{row}")
    assert len(index) == 0
    assert index.size_bytes < 64 * (32 * 4 + 8) + 1
    assert index.search(rows[0], 0.5, now=0.0) == []


def test_index_large_is_compact() -> None:
    index = SemanticIndex(384, small=1024)
    for row, vector in enumerate(clustered(8000, 384)):
        index.add(str(row), vector, expires_at=1.0)
    assert index.size_bytes / 8192 < 900  # 768 of vector, 48 of signature, 18 of the rest
