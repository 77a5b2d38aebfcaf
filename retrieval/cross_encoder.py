"""A cross-encoder reads two texts together; three rooms have one, each behind its owner thread."""

from functools import partial
from typing import Any

from retrieval.models import resolve_model
from retrieval.owner_thread import OwnerThread
from retrieval.types import ModelUnavailable


def load_cross_encoder(model_id: str, *, revision: str | None = None, device: str = "cpu") -> Any:
    """sentence-transformers' CrossEncoder of weights that cannot run code.

    Raises ModelUnavailable.
    """
    from safetensors import SafetensorError
    from sentence_transformers import CrossEncoder
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    path = resolve_model(model_id, revision=revision)
    try:
        return CrossEncoder(
            str(path),
            device=device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as exc:
        raise ModelUnavailable(f"cannot load a cross-encoder from {path}: {exc}") from exc


def use_threads(owner: OwnerThread[Any, Any], threads: int) -> None:
    """Bound what a forward pass on the owner's thread may use.

    OpenMP keeps the number per thread: it must be set by the one that computes.
    """
    from torch import set_num_threads

    owner.call(partial(set_num_threads, threads))
