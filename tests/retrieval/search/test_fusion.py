import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retrieval.search.fusion import convex, min_max, rrf

scores = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30)


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def test_convex_by_hand_weighs_scaled_scores():
    fused = convex(array(0.2, 0.6, 1.0), array(10, 0, 5), sparse_weight=0.25)
    np.testing.assert_allclose(fused, [0.25, 0.375, 0.875], rtol=1e-6)


def test_convex_weight_at_either_end_is_one_side_alone():
    dense, sparse = array(0.1, 0.9), array(3, 1)
    assert convex(dense, sparse, sparse_weight=0).tolist() == [0, 1]
    assert convex(dense, sparse, sparse_weight=1).tolist() == [1, 0]


def test_min_max_equal_scores_become_zero():
    assert min_max(array(7, 7, 7)).tolist() == [0, 0, 0]
    assert min_max(array()).tolist() == []


@given(scores)
def test_min_max_any_scores_stay_in_order_between_0_and_1(values):
    given_scores = array(*values)
    scaled = min_max(given_scores)
    assert ((scaled >= 0) & (scaled <= 1)).all()
    order = np.argsort(given_scores, kind="stable")
    assert (np.diff(scaled[order]) >= 0).all()


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 50, width=32)), min_size=1))
def test_convex_better_on_both_sides_never_fuses_lower(pairs):
    dense, sparse = (array(*column) for column in zip(*pairs, strict=True))
    fused = convex(dense, sparse)
    for a in range(len(pairs)):
        for b in range(len(pairs)):
            if dense[a] >= dense[b] and sparse[a] >= sparse[b]:
                assert fused[a] >= fused[b] - 1e-6


def test_rrf_by_hand_sums_reciprocal_ranks():
    rows = np.array([3, 5, 9])
    fused = rrf([np.array([5, 3]), np.array([9, 5])], rows, rrf_k=60)
    np.testing.assert_allclose(fused, [1 / 62, 1 / 61 + 1 / 62, 1 / 61], rtol=1e-6)


def test_rrf_row_in_no_ranking_gets_zero():
    assert rrf([np.array([1])], np.array([1, 2])).tolist()[1] == 0
