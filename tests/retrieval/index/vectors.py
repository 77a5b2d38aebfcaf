"""Unit vectors at random."""

import numpy as np


def unit_vectors(n: int, dim: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def no_queries() -> np.ndarray:
    raise AssertionError("an exact index measures nothing")
