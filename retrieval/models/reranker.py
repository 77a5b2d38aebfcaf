"""Rerank passages with a cross-encoder, a model that reads query and passage together.

That costs a forward pass for each passage, so it reads few of them, and none when the time left is
shorter than what past batches say it would take. When it is late, fails or has too much to do it
raises NotReranked, and the order that it was given stands.
"""

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from retrieval.models.cross_encoder import Pair, load_cross_encoder, use_threads
from retrieval.models.owner_thread import OwnerThread
from retrieval.types import Float32Array, ModelUnavailable, NotReranked, QueueFull

BATCH = 16
MAX_TOKENS = 512
"""Of query and passage together; models that name no limit of their own get this one."""
WARM_UP = "A passage of usual length has some two hundred words. " * 20
NEWEST = 0.3
"""Share of the newest batch in the running mean of what a character costs."""
FORGIVEN = 0.95
"""A refusal makes the next one less likely, or one slow batch would turn reranking off for good."""


class Reranker:
    """`scores` for one query at a time from any number of tasks of one event loop."""

    def __init__(self, model_id: str, model: Any) -> None:
        self._model = model
        self._owed = 0  # characters of all calls that wait or run
        self._s_per_char = 0.0  # running mean; 0 until the first batch
        self._owner: OwnerThread[Pair, float] = OwnerThread(
            self._predict, name=f"rerank {model_id}", max_batch=BATCH
        )

    async def scores(
        self, query: str, texts: Sequence[str], *, time_left_s: float | None = None
    ) -> Float32Array:
        """(n,), higher is more relevant, on the scale of the model's own activation.

        Raises NotReranked: before any work when it would take longer than `time_left_s`, and
        when it does, the queue is full or the model fails.
        """
        pairs = [(query, text) for text in texts]
        # Batches are cut from the queue in its order: pairs of like length share one.
        longest_first = sorted(range(len(pairs)), key=lambda n: -len(texts[n]))
        chars = _padded_chars([pairs[n] for n in longest_first])
        needed_s = (self._owed + chars) * self._s_per_char
        if time_left_s is not None and needed_s > time_left_s:
            self._s_per_char *= FORGIVEN
            raise NotReranked(f"reranking takes {needed_s:.2f} s, {time_left_s:.2f} are left")
        scores = np.empty(len(pairs), dtype=np.float32)
        self._owed += chars
        try:
            async with asyncio.timeout(time_left_s):
                scores[longest_first] = await self._owner.submit_all(
                    [pairs[n] for n in longest_first]
                )
        except TimeoutError as exc:
            raise NotReranked(f"reranking took longer than {time_left_s:.2f} s") from exc
        except QueueFull as exc:
            raise NotReranked(str(exc)) from exc
        finally:
            self._owed -= chars
        return scores

    def close(self) -> None:
        self._owner.close()

    def warm_up(self) -> None:
        """Run once, and learn what a character costs."""
        pairs = [("warm up", WARM_UP)] * 2
        self._owner.call(partial(self._predict, pairs))  # the first pass pays for set-up
        self._s_per_char = 0.0
        self._owner.call(partial(self._predict, pairs))

    def _predict(self, pairs: list[Pair]) -> list[float]:
        started = time.perf_counter()
        try:
            predicted = self._model.predict(pairs, batch_size=len(pairs), show_progress_bar=False)
            scores = np.asarray(predicted, dtype=np.float32)
        except Exception as exc:  # torch raises what it likes; an order as found beats no answer
            raise NotReranked(f"the reranker failed: {type(exc).__name__}") from exc
        if not np.isfinite(scores).all():
            raise NotReranked("the reranker gave scores that are not finite")
        now = (time.perf_counter() - started) / _padded_chars(pairs)
        self._s_per_char += (NEWEST if self._s_per_char else 1.0) * (now - self._s_per_char)
        return [float(score) for score in scores]


def load_reranker(
    model_id: str,
    *,
    revision: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Reranker:
    """Load a cross-encoder with one label and run it. Raises ModelUnavailable."""
    model = load_cross_encoder(model_id, revision=revision, device=device)
    if model.num_labels != 1:
        raise ModelUnavailable(f"{model_id} gives {model.num_labels} labels, a reranker gives one")
    model.max_seq_length = min(model.max_seq_length or MAX_TOKENS, MAX_TOKENS)
    reranker = Reranker(model_id, model)
    if threads is not None:
        use_threads(reranker._owner, threads)
    try:
        reranker.warm_up()
    except NotReranked as exc:
        reranker.close()
        raise ModelUnavailable(f"{model_id} loads but does not rank: {exc.__cause__}") from exc
    return reranker


def _padded_chars(pairs: Sequence[Pair]) -> int:
    """Characters the model reads: all pairs of a batch are padded to its longest."""
    lengths = [len(query) + len(text) for query, text in pairs]
    batches = (lengths[n : n + BATCH] for n in range(0, len(lengths), BATCH))
    return sum(len(batch) * max(batch) for batch in batches)
