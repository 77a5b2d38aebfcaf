"""A cached answer as it is stored in Redis: one msgpack value at `rag:cache:{partition}:{id}`."""

import hashlib
import random
import time
from typing import Any, Self

import msgspec
import numpy as np

from api.cache.admissible import normalise
from api.cache.partition import SCHEMA_VERSION, in_generation
from retrieval.types import Float32Array

PREFIX = "rag:cache:"
TTL_S = 24 * 3600.0
TTL_JITTER = 0.1
"""Entries written in one burst shall not expire in one burst."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One cached answer with its question and sources; times are Unix seconds."""

    id: str
    """{partition}:{hash of the normalised question and its history}."""
    tenant: str
    generation: str
    question: str
    embedding: bytes
    """float16, L2-normalised before rounding; empty = found by the exact layer alone."""
    answer: str
    payload: Any
    """Sources, citations and what else is shown; msgpack values, opaque to this room."""
    finish_reason: str
    usage: Any
    doc_ids: tuple[str, ...]
    passage_ids: tuple[str, ...]
    """Of the passages that the answer was written from."""
    created_at: float
    expires_at: float
    """Never moved by a hit."""
    schema: int = SCHEMA_VERSION

    @property
    def partition(self) -> str:
        return partition_of(self.id)


class CacheKey(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A question with what it is looked up by: an exact id, and an embedding."""

    id: str
    """Of the entry that its answer has or would become."""
    question: str
    history: str = ""
    embedding: Float32Array | None = None
    """None: the exact layer alone, as after a history, whose meaning no embedding holds."""

    @classmethod
    def of(
        cls,
        partition: str,
        question: str,
        embedding: Float32Array | None = None,
        *,
        history: str = "",
    ) -> Self:
        """`history` is the `history_key` of the turns before."""
        asked = cls(id=entry_id(partition, question, history), question=question, history=history)
        return asked.embedded(embedding)

    def embedded(self, embedding: Float32Array | None) -> Self:
        return msgspec.structs.replace(self, embedding=None if self.history else embedding)

    @property
    def partition(self) -> str:
        return partition_of(self.id)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)


def entry_id(partition: str, question: str, history: str = "") -> str:
    """The same for every writing of a question that the exact layer holds equal."""
    text = f"{history}\0{normalise(question)}"
    return f"{partition}:{hashlib.sha256(text.encode()).hexdigest()[:24]}"


def partition_of(id: str) -> str:
    return id.partition(":")[0]


def moved_id(id: str, generation: str) -> str:
    """The same question's in another generation."""
    partition, _, question = id.partition(":")
    return f"{in_generation(partition, generation)}:{question}"


def entry_key(id: str) -> str:
    return PREFIX + id


def new_entry(
    asked: CacheKey,
    *,
    answer: str,
    ttl_s: float = TTL_S,
    now: float | None = None,
    **facts: Any,
) -> Entry:
    """The entry for a whole answer; `facts` are the other fields of Entry."""
    created_at = time.time() if now is None else now
    return Entry(
        id=asked.id,
        question=asked.question,
        embedding=b"" if asked.embedding is None else pack_embedding(asked.embedding),
        answer=answer,
        created_at=created_at,
        expires_at=expiry(created_at, ttl_s),
        **facts,
    )


def expiry(created_at: float, ttl_s: float = TTL_S) -> float:
    return created_at + ttl_s * random.uniform(1 - TTL_JITTER, 1 + TTL_JITTER)


def encode_entry(entry: Entry) -> bytes:
    # Copied: what the encoder returns keeps its whole buffer, up to half as much again.
    return bytes(memoryview(_encoder.encode(entry)))


def decode_entry(value: bytes) -> Entry | None:
    """None for a value of another schema or of another writer."""
    try:
        entry = _decoder.decode(value)
    except msgspec.DecodeError:  # ValidationError is one
        return None
    is_ours = entry.schema == SCHEMA_VERSION and len(entry.embedding) % 2 == 0
    return entry if is_ours else None


def pack_embedding(embedding: Float32Array) -> bytes:
    return embedding.astype(np.float16).tobytes()


def unpack_embedding(packed: bytes) -> Float32Array:
    return np.frombuffer(packed, dtype=np.float16).astype(np.float32)
