"""An embedder with fixed vectors and a tokenizer of one token a word."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from retrieval.types import Float32Array, Rows


def word_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


class FakeEmbedder:
    """Each text gets the vector given for it, else one drawn from its hash."""

    model_id = "fake/fixed"
    revision = "0123456789abcdef"
    max_tokens = 256

    def __init__(self, vectors: dict[str, Sequence[float]] | None = None, *, dim: int = 8) -> None:
        self.dim = dim
        self.tokenizer: Any = word_tokenizer()
        self.encoded: list[str] = []
        self._vectors = vectors or {}

    async def embed(self, query: str) -> Float32Array:
        return self._vector(query)

    def encode_queries(self, queries: Sequence[str]) -> Float32Array:
        return np.stack([self._vector(query) for query in queries])

    def encode_passages(
        self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None
    ) -> Float32Array:
        self.encoded.extend(texts)
        if progress is not None:
            progress(len(texts), len(texts))
        return np.stack([self._vector(text) for text in texts])

    def _vector(self, text: str) -> Float32Array:
        if text in self._vectors:
            vector = np.array(self._vectors[text], dtype=np.float32)
        else:
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
            vector = np.random.default_rng(seed).standard_normal(self.dim).astype(np.float32)
        return vector / np.linalg.norm(vector)


def counts_of_one(n_documents: int) -> Rows:
    """Each document is one passage."""
    return np.ones(n_documents, dtype=np.int64)
