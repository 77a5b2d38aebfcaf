"""Load a cross-encoder, a model that scores two texts read together, and run it once.

The reranker and the verifiers of the cache and of citations have one each, on a thread of its own.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from retrieval.models.owner_thread import OwnerThread
from retrieval.models.resolve import resolve_model
from retrieval.models.torch_encoder import load_safely
from retrieval.types import ModelUnavailable

Pair = tuple[str, str]


def load_cross_encoder(model_id: str, *, revision: str | None = None, device: str = "cpu") -> Any:
    """Raises ModelUnavailable."""
    from sentence_transformers import CrossEncoder

    path = resolve_model(model_id, revision=revision)
    return load_safely(CrossEncoder, path, device, what="a cross-encoder")


def use_threads(owner: OwnerThread[Any, Any], threads: int) -> None:
    """Bound what a forward pass on the owner's thread may use.

    OpenMP keeps the number per thread: it must be set by the one that computes.
    """
    from torch import set_num_threads

    owner.call(partial(set_num_threads, threads))


def start_judging(
    owner: OwnerThread[Pair, float],
    score: Callable[[list[Pair]], object],
    model_id: str,
    *,
    threads: int | None,
) -> None:
    """Have a verifier's model judge once; closes the owner and raises ModelUnavailable if not."""
    try:
        if threads is not None:
            use_threads(owner, threads)
        owner.call(partial(score, [("warm up", "warm up")]))
    except Exception as exc:  # torch raises what it likes
        owner.close()
        raise ModelUnavailable(f"{model_id} loads but does not judge: {exc}") from exc
