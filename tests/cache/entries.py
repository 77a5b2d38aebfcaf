"""Questions that the tests of the cache ask."""

import time

import numpy as np
from hypothesis import strategies as st

from api.cache.entries import Entry, entry_id, pack_embedding
from api.cache.partition import PartitionKey

P = "p" * 32
QUESTION = "How do I reset my password?"
PARAPHRASE = "How can I reset my password?"
TRAP = "How do I not reset my password?"
DIM = 64


def vector(seed: int, *, near: int | None = None, cosine: float = 0.0) -> np.ndarray:
    """A random unit vector, or one at `cosine` from the vector of another seed."""
    fresh = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    if near is None:
        return fresh / np.linalg.norm(fresh)
    base = vector(near)
    fresh -= (fresh @ base) * base
    fresh /= np.linalg.norm(fresh)
    return cosine * base + np.float32(np.sqrt(1 - cosine**2)) * fresh


def entry(
    question: str,
    embedding: np.ndarray | None = None,
    *,
    partition: str = "p" * 32,
    answer: str = "forty-two",
    created_at: float | None = None,
    ttl_s: float = 3600.0,
    **fields,
) -> Entry:
    created = time.time() if created_at is None else created_at
    return Entry(
        **{
            "id": entry_id(partition, question),
            "tenant": "public",
            "generation": "g1",
            "question": question,
            "embedding": b"" if embedding is None else pack_embedding(embedding),
            "answer": answer,
            "payload": {"sources": [{"n": 1, "doc_id": "d1"}]},
            "finish_reason": "stop",
            "usage": {"prompt_tokens": 3, "completion_tokens": 2},
            "doc_ids": ("d1",),
            "passage_ids": ("d1#0",),
            "created_at": created,
            "expires_at": created + ttl_s,
            **fields,
        }
    )


SCOPE = PartitionKey(
    tenant="acme",
    generation="g1",
    engine_model="qwen",
    temperature=0.1,
    max_tokens=256,
    prompt_version="v1",
    retrieval={"fusion": "convex", "rerank": ""},
    top_k=3,
    embedding_model="minilm",
)
CHANGES = {
    "tenant": st.text(min_size=1),
    "generation": st.text(),
    "engine_model": st.text(),
    "temperature": st.floats(0, 2),
    "max_tokens": st.integers(1, 4096),
    "prompt_version": st.text(),
    "retrieval": st.dictionaries(st.text(), st.text(), max_size=3),
    "top_k": st.integers(1, 20),
    "embedding_model": st.text(),
    "filters": st.one_of(st.none(), st.dictionaries(st.text(), st.text(), max_size=3)),
}
