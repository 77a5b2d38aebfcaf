import math

import numpy as np
import pytest

from retrieval.evaluation.metrics import (
    Figure,
    bootstrap,
    exact_match,
    f1,
    mrr_at,
    ndcg_at,
    normalize_answer,
    recall_at,
)

RUN = ["a", "b", "c", "d"]


def test_recall_by_hand():
    assert recall_at(RUN, {"b": 1, "z": 2, "a": 0}, 1) == 0
    assert recall_at(RUN, {"b": 1, "z": 2, "a": 0}, 2) == 0.5


def test_mrr_by_hand():
    assert mrr_at(RUN, {"c": 1, "d": 1}, 10) == 1 / 3
    assert mrr_at(RUN, {"c": 1}, 2) == 0


def test_ndcg_graded_by_hand():
    judged = {"a": 1, "c": 3, "z": 2}
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert ndcg_at(RUN, judged, 10) == pytest.approx((1 + 3 / 2) / ideal)
    assert ndcg_at(RUN, judged, 1) == pytest.approx(1 / 3)
    assert ndcg_at(["c", "z", "a"], judged, 10) == 1


def test_answers_as_squad_normalises_them():
    assert normalize_answer("The  Denver-Broncos!") == "denverbroncos"
    assert exact_match("the Broncos.", ["Denver", "Broncos"]) == 1
    assert exact_match("Bronco", ["Broncos"]) == 0
    assert f1("Denver Broncos won", ["the Denver Broncos", "x"]) == pytest.approx(0.8)
    assert f1("the", ["a"]) == 1
    assert f1("", ["word"]) == f1("word", []) == 0


def test_bootstrap_is_seeded_and_holds_the_mean():
    table = np.random.default_rng(1).random((2, 400))
    first, second = bootstrap(table), bootstrap(table)
    assert first == second
    for figure, row in zip(first, table, strict=True):
        assert figure.mean == pytest.approx(row.mean())
        assert figure.low < figure.mean < figure.high
        width = 2 * 1.96 * row.std() / math.sqrt(400)
        assert figure.high - figure.low == pytest.approx(width, rel=0.15)


def test_figure_of_a_difference_shows_its_sign():
    assert Figure(0.0124, -0.001, 0.02).signed == "+0.012 [-0.001, +0.020]"
    assert str(Figure(0.5, 0.25, 0.75)) == "0.500 [0.250, 0.750]"
