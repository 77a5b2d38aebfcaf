"""Check a semantic cache hit with a cross-encoder that reads both questions.

Anything but a clear yes is a miss: an unknown verdict, a timeout, a full queue, a broken model.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from api.cache.entries import Entry
from api.logs import logger
from retrieval.models.cross_encoder import Pair, load_cross_encoder, start_judging
from retrieval.models.owner_thread import OwnerThread
from retrieval.types import ModelUnavailable, QueueFull

Verdict = Literal["accept", "reject", "unknown"]

TIMEOUT_S = 0.2
ACCEPT_FROM = 0.8
REJECT_BELOW = 0.5


class CrossEncoderVerifier:
    """A cross-encoder that gives the probability that two questions are the same."""

    def __init__(
        self,
        model: Any,
        *,
        accept_from: float = ACCEPT_FROM,
        reject_below: float = REJECT_BELOW,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._model = model
        self._accept_from = accept_from
        self._reject_below = reject_below
        self._timeout_s = timeout_s
        self._owner: OwnerThread[Pair, float] = OwnerThread(self._score, name="cache verifier")

    async def verify(self, question: str, entry: Entry) -> Verdict:
        try:
            async with asyncio.timeout(self._timeout_s):
                score = await self._owner.submit((entry.question, question))
        except (TimeoutError, QueueFull):
            return "unknown"
        except Exception as exc:  # torch raises what it likes; a hit is not worth a failed answer
            logger.warning("verifier failed", extra={"facts": {"error": type(exc).__name__}})
            return "unknown"
        if score >= self._accept_from:
            return "accept"
        return "reject" if score < self._reject_below else "unknown"

    def close(self) -> None:
        self._owner.close()

    def _score(self, pairs: list[Pair]) -> Sequence[float]:
        scores = self._model.predict(pairs, show_progress_bar=False)
        return [float(score) for score in scores]


def load_verifier(
    model_id: str, *, revision: str | None = None, threads: int | None = None
) -> CrossEncoderVerifier:
    """Load a cross-encoder with one label and run it once. Raises ModelUnavailable."""
    from torch import nn

    model = load_cross_encoder(model_id, revision=revision)
    if model.num_labels != 1:
        raise ModelUnavailable(f"{model_id} gives {model.num_labels} labels, a verifier needs one")
    model.activation_fn = nn.Sigmoid()
    verifier = CrossEncoderVerifier(model)
    start_judging(verifier._owner, verifier._score, model_id, threads=threads)
    return verifier
