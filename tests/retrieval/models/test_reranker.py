import asyncio
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from retrieval.models.reranker import BATCH, Reranker, load_reranker
from retrieval.types import ModelUnavailable, NotReranked
from tests.retrieval.tiny_models import save_cross_encoder
from tests.support.waiting import until

QUERY = "cats ?"
TEXTS = ["bad cats sleep", "good owls hunt mice", "good good dogs", "the dogs bark at mice"]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "likes-good"
    save_cross_encoder(path)
    return path


@pytest.fixture(scope="module")
def reranker(model_dir) -> Iterator[Reranker]:
    reranker = load_reranker(str(model_dir), threads=1)
    yield reranker
    reranker.close()


class Gate:
    """Stands in for a model: counts what it is given and waits to be let through."""

    def __init__(self, *, score: float = 0.5) -> None:
        self.batches: list[list[tuple[str, str]]] = []
        self.may_run = threading.Semaphore(0)
        self.score = score

    def predict(self, pairs, batch_size, show_progress_bar) -> Sequence[float]:
        self.batches.append(list(pairs))
        assert self.may_run.acquire(timeout=5)
        return [self.score] * len(pairs)


def test_scores_real_cross_encoder_equal_its_own_prediction(reranker):
    scores = asyncio.run(reranker.scores(QUERY, TEXTS))
    expected = reranker._model.predict([(QUERY, text) for text in TEXTS], show_progress_bar=False)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert np.argsort(-scores).tolist()[:2] == [2, 1]


def test_scores_more_than_a_batch_come_in_the_order_of_the_texts(reranker):
    texts = [f"{'good ' * (n % 5)}{'mice ' * (n % 7)}owls" for n in range(3 * BATCH + 1)]
    expected = reranker._model.predict([(QUERY, text) for text in texts], show_progress_bar=False)
    scores = asyncio.run(reranker.scores(QUERY, texts, time_left_s=60))
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_scores_two_queries_at_once_do_not_mix(reranker):
    async def both():
        return await asyncio.gather(
            reranker.scores("good ?", TEXTS), reranker.scores("bad ?", TEXTS)
        )

    good, bad = asyncio.run(both())
    assert (good > bad).all()


def test_scores_too_little_time_is_refused_before_any_work():
    model = Gate()
    reranker = Reranker("gate", model)
    reranker._s_per_char = 0.001
    try:
        with pytest.raises(NotReranked, match=r"takes 0\.\d+ s, 0\.01 are left"):
            asyncio.run(reranker.scores(QUERY, TEXTS, time_left_s=0.01))
        assert model.batches == []
    finally:
        reranker.close()


def test_scores_refusals_wear_an_estimate_down_until_it_is_tried_again():
    reranker = Reranker("gate", Gate())
    reranker._s_per_char = 1.0
    try:
        for _ in range(3):
            with pytest.raises(NotReranked, match="are left"):
                asyncio.run(reranker.scores(QUERY, TEXTS, time_left_s=0.01))
        assert reranker._s_per_char == pytest.approx(0.95**3)
    finally:
        reranker.close()


def test_scores_estimate_counts_what_others_wait_for():
    model = Gate()
    reranker = Reranker("gate", model)

    async def scenario():
        first = asyncio.create_task(reranker.scores(QUERY, TEXTS))
        await until(lambda: model.batches)
        owed = reranker._owed
        reranker._s_per_char = 1.0 / owed
        with pytest.raises(NotReranked, match=r"takes 2\.00 s"):
            await reranker.scores(QUERY, TEXTS, time_left_s=1.5)
        model.may_run.release(10)
        await first
        assert (owed > 0, reranker._owed) == (True, 0)

    try:
        asyncio.run(scenario())
    finally:
        reranker.close()


def test_scores_time_runs_out_meanwhile_drops_what_waits():
    model = Gate()
    reranker = Reranker("gate", model)

    async def scenario():
        with pytest.raises(NotReranked, match="took longer than 0.05"):
            await reranker.scores(QUERY, TEXTS * BATCH, time_left_s=0.05)
        model.may_run.release(100)
        return await reranker.scores(QUERY, ["the next one"])

    try:
        asyncio.run(scenario())
        assert [len(batch) for batch in model.batches] == [BATCH, 1]
    finally:
        reranker.close()


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_scores_not_finite_are_no_order(score):
    model = Gate(score=score)
    model.may_run.release(100)
    reranker = Reranker("gate", model)
    try:
        with pytest.raises(NotReranked, match="not finite"):
            asyncio.run(reranker.scores(QUERY, TEXTS))
    finally:
        reranker.close()


class Broken:
    def predict(self, pairs, batch_size, show_progress_bar):
        raise RuntimeError(f"out of memory for {pairs}")


def test_scores_model_fails_names_the_kind_and_no_text():
    reranker = Reranker("broken", Broken())
    try:
        with pytest.raises(NotReranked, match="RuntimeError") as caught:
            asyncio.run(reranker.scores(QUERY, TEXTS))
        assert "cats" not in str(caught.value)
    finally:
        reranker.close()


def test_scores_queue_full_is_not_reranked():
    model = Gate()
    reranker = Reranker("gate", model)
    try:
        with pytest.raises(NotReranked, match="wait for the model"):
            asyncio.run(reranker.scores(QUERY, ["text"] * 2000))
    finally:
        reranker.close()


def test_load_learns_what_a_character_costs(reranker):
    assert 0 < reranker._s_per_char < 1


def test_load_model_of_two_labels_is_refused(tmp_path):
    save_cross_encoder(tmp_path / "two", num_labels=2)
    with pytest.raises(ModelUnavailable, match="gives 2 labels"):
        load_reranker(str(tmp_path / "two"))
