"""Fuse the scores of dense search and BM25 into one: convex combination or reciprocal ranks."""

from collections.abc import Sequence

import numpy as np

from retrieval.types import Float32Array, Rows


def convex(
    dense_scores: Float32Array, sparse_scores: Float32Array, *, sparse_weight: float = 0.5
) -> Float32Array:
    """sparse_weight * minmax(sparse) + (1 - sparse_weight) * minmax(dense), (n,) for n candidates.

    Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", TOIS 2023
    (https://arxiv.org/abs/2210.11934).
    """
    fused: Float32Array = sparse_weight * min_max(sparse_scores) + (1 - sparse_weight) * min_max(
        dense_scores
    )
    return fused


def min_max(scores: Float32Array) -> Float32Array:
    """Scaled to 0..1; equal scores carry no preference and become 0."""
    if len(scores) == 0:
        return scores
    low, high = scores.min(), scores.max()
    if high <= low:
        return np.zeros_like(scores)
    scaled: Float32Array = (scores - low) / (high - low)
    return scaled


def rrf(rankings: Sequence[Rows], rows: Rows, *, rrf_k: int = 60) -> Float32Array:
    """Reciprocal rank fusion: for each of `rows` the sum of 1 / (rrf_k + rank), ranks from 1.

    Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and individual Rank
    Learning Methods", SIGIR 2009. A row that a ranking lacks gains nothing from it.
    """
    fused: dict[int, float] = dict.fromkeys(rows.tolist(), 0.0)
    for ranking in rankings:
        for rank, row in enumerate(ranking.tolist(), start=1):
            fused[row] += 1 / (rrf_k + rank)
    return np.fromiter(fused.values(), dtype=np.float32, count=len(fused))
