"""The partition key: a hash of everything beside the question that an answer depends on.

Entries of one partition may serve each other; entries of two partitions can never meet, for
lookups only ever see one. The index generation is part of it: after a swap the old entries are
out of reach at once.
"""

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

SCHEMA_VERSION = 2
"""Of the stored entry and of the rules of this room; a change leaves old entries behind."""

_LASTING = 32

_encoder = msgspec.json.Encoder(order="sorted")


class PartitionKey(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer depends on beside its question: caller, index, model, settings."""

    tenant: str
    """Who may see the answer; "public" when auth is off."""
    generation: str
    engine_model: str
    """With its revision where the engine tells one."""
    temperature: float
    max_tokens: int
    prompt_version: str
    retrieval: Mapping[str, object]
    """Retriever and reranker settings that change what is found; JSON values."""
    top_k: int
    embedding_model: str
    """Of the cache's own embedder, with its revision."""
    filters: Mapping[str, object] | None = None


def partition_key(scope: PartitionKey) -> str:
    """Hex: 128 bits for all but the generation, then 64 for that, so that
    `in_generation` can change it.

    Raises ValueError without a tenant: such an answer belongs to nobody.
    """
    if not scope.tenant:
        raise ValueError("an answer without a tenant cannot be cached")
    parts = {
        **msgspec.structs.asdict(scope),
        "generation": None,
        "temperature": float(scope.temperature),
        "schema": SCHEMA_VERSION,
    }
    lasting = hashlib.sha256(_encoder.encode(parts)).hexdigest()[:_LASTING]
    return lasting + _generation_key(scope.generation)


def in_generation(partition: str, generation: str) -> str:
    """The partition that differs from this one in its generation alone."""
    return partition[:_LASTING] + _generation_key(generation)


def _generation_key(generation: str) -> str:
    return hashlib.sha256(generation.encode()).hexdigest()[:16]


def history_key(messages: Sequence[tuple[str, str]]) -> str:
    """Of earlier turns as (role, content); empty for a first turn.

    A question with a history has an exact key of its own and no semantic layer: what "it" means
    is not in its embedding.
    """
    return hashlib.sha256(_encoder.encode(messages)).hexdigest()[:32] if messages else ""
