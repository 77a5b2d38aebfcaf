import asyncio
import time
from pathlib import Path

import pytest

from api.caching.verifier import CrossEncoderVerifier, load_verifier
from retrieval.types import ModelUnavailable
from tests.caching.conftest import entry


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
def tiny_cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT cross-encoder of random weights, saved as sentence-transformers saves one."""
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    path = tmp_path_factory.mktemp("tiny")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "how", "do", "i", "pay", "reset", "?"]
    (path / "vocab.txt").write_text("\n".join(words))
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64, num_labels=1,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(path)
    BertTokenizerFast(str(path / "vocab.txt")).save_pretrained(path)
    return path


def test_load_verifier_tiny_model_scores(tiny_cross_encoder: Path) -> None:
    verifier = load_verifier(str(tiny_cross_encoder))
    try:
        verdict = asyncio.run(verifier.verify("how do i pay?", entry("how do i reset?")))
        assert verdict in ("accept", "reject", "unknown")
        assert 0.0 <= verifier._score([("how do i pay?", "how do i reset?")])[0] <= 1.0
    finally:
        verifier.close()


def test_load_verifier_of_no_model_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelUnavailable):
        load_verifier(str(tmp_path))
