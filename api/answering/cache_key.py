"""The cache key of a question: its words, and the partition of all else that its answer depends on.

Who asks, which index, which engine, which sampling: answers of two partitions never meet.
"""

from functools import lru_cache

from api.answering.context import AnswerContext
from api.answering.request import AnswerRequest
from api.cache.admissible import Admission, admit_question
from api.cache.entries import CacheKey
from api.cache.partition import PartitionKey, history_key, partition_key
from api.engines.client import Sampling
from retrieval.index.filters import View
from retrieval.models.embedder import Embedder

SettingValues = tuple[tuple[str, object], ...]
"""Names and values of settings that change what is found."""


def cache_key(
    context: AnswerContext, *, generation: str, retrieval: SettingValues, embedding_model: str
) -> CacheKey:
    """Return the key of a question, without its embedding.

    `embedding_model` is the revision of the cache's model; empty while there is none.
    """
    request, stages = context.request, context.stages
    engines = [stages.engines[context.pinned]] if context.pinned else stages.engines.all
    partition = _partition(
        context.admitted.caller.tenant,
        generation,
        " ".join([f"{engine.name}={engine.model}" for engine in engines]),
        stages.sampling(request),
        stages.prompts.version,
        retrieval,
        stages.n_passages(request),
        embedding_model,
        context.view,
    )
    history = history_key([(turn.role, turn.content) for turn in request.history])
    return CacheKey.of(partition, request.query, history=history)


@lru_cache(maxsize=4096)
def _partition(
    tenant: str,
    generation: str,
    engine_model: str,
    sampling: Sampling,
    prompt_version: str,
    retrieval: SettingValues,
    top_k: int,
    embedding_model: str,
    view: View,
) -> str:
    return partition_key(
        PartitionKey(
            tenant=tenant,
            generation=generation,
            engine_model=engine_model,
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            prompt_version=prompt_version,
            retrieval=dict(retrieval),
            top_k=top_k,
            embedding_model=embedding_model,
            filters={"view": view.key()},
        )
    )


@lru_cache(maxsize=4096)
def _judge_words(query: str) -> Admission:
    return admit_question(query)


def judge_cacheable(request: AnswerRequest, embedder: Embedder | None) -> Admission:
    """Return what may be cached for a question, by its words and its length in tokens."""
    if embedder is None or len(request.query) <= embedder.max_tokens:
        return _judge_words(request.query)  # no more tokens than characters
    n_tokens = len(embedder.tokenizer.encode(request.query).ids)
    return admit_question(request.query, n_tokens=n_tokens, window_tokens=embedder.max_tokens)
