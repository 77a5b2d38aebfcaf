from typing import Any

import msgspec
import numpy as np

from api.cache.entries import (
    TTL_S,
    CacheKey,
    decode_entry,
    encode_entry,
    entry_id,
    expiry,
    new_entry,
    partition_of,
    unpack_embedding,
)
from tests.cache.entries import entry, vector


def test_entry_comes_back_as_it_was() -> None:
    written = entry("What is RAG?", vector(1))
    assert decode_entry(encode_entry(written)) == written
    assert np.abs(unpack_embedding(written.embedding) - vector(1)).max() < 1e-3


def test_entry_of_another_schema_or_writer_is_none() -> None:
    assert decode_entry(encode_entry(entry("q", schema=99))) is None
    assert decode_entry(b"not msgpack") is None
    assert decode_entry(msgspec.msgpack.encode({"a": 1})) is None
    assert decode_entry(b"") is None


def test_entry_id_equal_for_equal_questions_alone() -> None:
    assert entry_id("p", "What is RAG?") == entry_id("p", " what is rag")
    ids = {entry_id("p", "a"), entry_id("q", "a"), entry_id("p", "b"), entry_id("p", "a", "h")}
    assert len(ids) == 4
    assert partition_of(entry_id("p", "a")) == "p"


def test_expiry_is_spread_around_a_day() -> None:
    times = [expiry(1000.0) - 1000.0 for _ in range(200)]
    assert 0.9 * TTL_S <= min(times) < 0.95 * TTL_S
    assert 1.05 * TTL_S < max(times) <= 1.1 * TTL_S


def test_new_entry_after_a_history_has_no_embedding() -> None:
    facts: dict[str, Any] = {
        "answer": "yes", "tenant": "acme", "generation": "g1", "payload": None, "usage": None,
        "finish_reason": "stop", "doc_ids": ("d",), "passage_ids": (),
    }  # fmt: skip
    first = new_entry(CacheKey.of("p", "Why?", vector(1)), **facts)
    assert len(first.embedding) == 2 * len(vector(1))
    assert first.partition == "p"
    later = new_entry(CacheKey.of("p", "Why?", history="h").embedded(vector(1)), **facts)
    assert later.embedding == b""
    assert later.id == entry_id("p", "Why?", "h") != first.id
