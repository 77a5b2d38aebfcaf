import asyncio
import shutil
import threading
import time
from pathlib import Path

import pytest

from api.cache.verifier import CrossEncoderVerifier, load_verifier
from retrieval.types import ModelUnavailable
from tests.cache.entries import entry
from tests.retrieval.tiny_models import break_tokenizer, save_cross_encoder


class Scripted:
    def __init__(self, score: float, *, takes_s: float = 0.0) -> None:
        self.score, self.takes_s = score, takes_s

    def predict(self, pairs, show_progress_bar):
        time.sleep(self.takes_s)
        if self.score < 0:
            raise RuntimeError("out of memory")
        return [self.score] * len(pairs)


@pytest.mark.parametrize(
    ("model", "verdict"),
    [
        (Scripted(0.9), "accept"),
        (Scripted(0.7), "unknown"),
        (Scripted(0.1), "reject"),
        (Scripted(-1.0), "unknown"),
        (Scripted(0.9, takes_s=0.3), "unknown"),
    ],
)
def test_verdict_follows_the_score_in_time(model: Scripted, verdict: str) -> None:
    verifier = CrossEncoderVerifier(model, timeout_s=0.1)
    try:
        assert asyncio.run(verifier.verify("a?", entry("b?"))) == verdict
    finally:
        verifier.close()


def test_verify_a_full_queue_is_unknown() -> None:
    verifier = CrossEncoderVerifier(Scripted(0.9, takes_s=0.2), timeout_s=1.0)
    verifier._owner._max_waiting = 1

    async def crowd() -> list[str]:
        return await asyncio.gather(*(verifier.verify("a?", entry("b?")) for _ in range(4)))

    try:
        assert "unknown" in asyncio.run(crowd())
    finally:
        verifier.close()


@pytest.fixture(scope="module")
def likes_good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "likes-good"
    save_cross_encoder(path)
    return path


def test_load_verifier_judges_by_the_model(likes_good: Path) -> None:
    verifier = load_verifier(str(likes_good), threads=1)
    verifier._timeout_s = 10.0
    try:
        good, bad = verifier._score([("good good good", "good"), ("cats", "dogs")])
        assert 1.0 >= good > 0.9 > bad >= 0.0
        assert asyncio.run(verifier.verify("good good?", entry("good good good?"))) == "accept"
    finally:
        verifier.close()


def test_load_verifier_refuses_what_gives_no_probability(tmp_path: Path, likes_good: Path) -> None:
    two, crashing, empty = (tmp_path / name for name in ("two", "crashing", "empty"))
    save_cross_encoder(two, num_labels=2)
    shutil.copytree(likes_good, crashing)
    break_tokenizer(crashing)
    empty.mkdir()
    n_threads = threading.active_count()
    for path, reason in (
        (two, "gives 2 labels"),
        (crashing, "does not judge"),
        (empty, "cannot load"),
    ):
        with pytest.raises(ModelUnavailable, match=reason):
            load_verifier(str(path))
    assert threading.active_count() == n_threads
