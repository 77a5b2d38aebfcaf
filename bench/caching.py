"""What a cache lookup costs beyond the embedding, beside brute force and the seed's SCAN.

python -m bench.caching

Embeddings are those of real questions, spread by noise to the number wanted. The seed's way
(SCAN, HGET of every vector, dot product) is measured in its best case, pipelined, up to 10,000
entries: it is linear, and 100,000 would take a minute a lookup on a small machine.
"""

import asyncio
import gc
import itertools
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from redis.asyncio import Redis

from api.cache.answer_cache import AnswerCache
from api.cache.entries import CacheKey, Entry, encode_entry, entry_id, entry_key, pack_embedding
from api.cache.residents import Residents
from bench.support.processes import valkey
from bench.support.sizes import at_size
from bench.support.tables import print_header
from retrieval.models.embedder import load_embedder
from retrieval.models.resolve import MINILM
from retrieval.types import Float32Array

SIZES = at_size((1_000, 10_000, 100_000), (200,))
SCANNED_UP_TO = 10_000
N_LOOKUPS = at_size(400, 40)
N_WEIGHED = at_size(20_000, 500)
THRESHOLD = 0.92
PARTITION = "p" * 32
ANSWER = "The answer stands in the second passage, and it is this long. " * 10

Row = dict[str, object]


def bench() -> list[Row]:
    """Milliseconds, p50 and p99 over the lookups; bytes an entry."""
    questions, vectors = _real_questions()
    rows: list[Row] = []
    with valkey() as socket:
        for n in SIZES:
            rows += asyncio.run(_rows(n, questions, vectors, f"unix://{socket}"))
    rows += _bytes(questions, vectors)
    return rows


async def _rows(n: int, questions: list[str], vectors: Float32Array, redis_url: str) -> list[Row]:
    embeddings = _spread(vectors, n)
    cache = AnswerCache(threshold=THRESHOLD, max_bytes=1 << 40)
    asked = [f"{questions[row % len(questions)]} ({_word(row)})" for row in range(n)]
    for question, embedding in zip(asked, embeddings, strict=True):
        cache.put(_entry(question, embedding))
    rng = np.random.default_rng(1)
    picks = rng.integers(n, size=N_LOOKUPS)
    near = _spread(embeddings[picks], N_LOOKUPS, noise=0.1)
    fresh = _spread(vectors, N_LOOKUPS, noise=1.0, seed=2)

    async def exact(turn: int) -> None:
        assert await cache.lookup_exact(CacheKey.of(PARTITION, asked[picks[turn]])) is not None

    def hit(politely: str) -> Callable[[int], Awaitable[None]]:
        async def look_up(turn: int) -> None:
            question = f"{politely}, {asked[picks[turn]]}"
            await cache.lookup_semantic(CacheKey.of(PARTITION, question, near[turn]))

        return look_up

    async def miss(turn: int) -> None:
        await cache.lookup_semantic(CacheKey.of(PARTITION, f"Why {turn}?", fresh[turn]))

    async def brute_force(turn: int) -> None:
        similarities = embeddings @ near[turn]
        best = int(np.argmax(similarities))
        assert similarities[best] > 0

    rows = [
        await _measure(n, "exact hit", exact),
        await _measure(n, "semantic, near one, new to the rules", hit("Please")),
        await _measure(n, "semantic, near one that was served before", hit("Kindly")),
        await _measure(n, "semantic, nothing near", miss),
        await _measure(n, "brute-force product", brute_force),
    ]
    served = cache.stats().hits.get("semantic", 0)
    rows[1]["hits"] = rows[2]["hits"] = served / (2 * (N_LOOKUPS + 20))
    if n <= SCANNED_UP_TO:
        rows.append(await _seed(n, asked, embeddings, near, redis_url))
    return rows


async def _measure(
    n: int, what: str, lookup: Callable[[int], Awaitable[None]], *, times: int = N_LOOKUPS
) -> Row:
    gc.collect()
    gc.freeze()  # a full collection over the corpus of the bench is not the lookup's
    spent = []
    for turn in itertools.chain(range(min(20, times)), range(times)):
        started = time.perf_counter()
        await lookup(turn)
        spent.append((time.perf_counter() - started) * 1000)
    gc.unfreeze()
    p50, p99 = np.percentile(spent[min(20, times) :], [50, 99]).tolist()
    return {"entries": n, "what": what, "p50": p50, "p99": p99}


async def _seed(
    n: int, asked: list[str], embeddings: Float32Array, near: Float32Array, redis_url: str
) -> Row:
    """All keys by SCAN, all vectors by pipelined HGET, one dot product each."""
    redis: Any = Redis.from_url(redis_url)
    await redis.flushall()
    for start in range(0, n, 1000):
        pipeline = redis.pipeline(transaction=False)
        for row in range(start, min(n, start + 1000)):
            values: Any = {"query": asked[row], "embedding": embeddings[row].tobytes()}
            pipeline.hset(f"seed:{row}", mapping=values)
        await pipeline.execute()

    async def lookup(turn: int) -> None:
        best = -1.0
        keys = [key async for key in redis.scan_iter("seed:*", count=1000)]
        pipeline = redis.pipeline(transaction=False)
        for key in keys:
            pipeline.hget(key, "embedding")
        for raw in await pipeline.execute():
            best = max(best, float(np.frombuffer(raw, np.float32) @ near[turn]))

    measured = await _measure(n, "the seed: SCAN + HGET + dot", lookup, times=5)
    await redis.aclose()
    return measured


def _bytes(questions: list[str], vectors: Float32Array) -> list[Row]:
    """Of one entry: in process without and with its payload, in Redis as the server counts."""
    n = N_WEIGHED
    embeddings = _spread(vectors, n)
    entries = [
        _entry(f"{questions[row % len(questions)]} ({_word(row)})", embeddings[row])
        for row in range(n)
    ]
    gc.collect()
    tracemalloc.start()
    residents = Residents(1 << 40, has_store=True)
    for entry in entries:
        residents.add(entry, 0.0)
    with_payload = tracemalloc.get_traced_memory()[0] / n
    payload = sum(map(len, residents._payloads.values())) / n
    tracemalloc.stop()
    rows: list[Row] = [
        {
            "entries": n,
            "what": "bytes in process, index and question",
            "p50": with_payload - payload,
        },
        {"entries": n, "what": "bytes in process, accounted", "p50": residents.size_bytes / n},
        {"entries": n, "what": "bytes in process, payload", "p50": payload},
    ]
    with valkey() as socket:
        used, answer = asyncio.run(_bytes_in_redis(entries[:500], f"unix://{socket}"))
    rows.append({"entries": 500, "what": "bytes in Redis, whole", "p50": used})
    rows.append({"entries": 500, "what": "bytes in Redis, less answer and question", "p50": answer})
    return rows


async def _bytes_in_redis(entries: list[Entry], redis_url: str) -> tuple[float, float]:
    redis: Any = Redis.from_url(redis_url)
    used = 0.0
    for entry in entries:
        await redis.set(entry_key(entry.id), encode_entry(entry), px=3_600_000)
        used += await redis.memory_usage(entry_key(entry.id))
    await redis.aclose()
    texts = sum(len(entry.answer) + len(entry.question) for entry in entries)
    return used / len(entries), (used - texts) / len(entries)


def _entry(question: str, embedding: Float32Array) -> Entry:
    return Entry(
        id=entry_id(PARTITION, question),
        tenant="public",
        generation="g1",
        question=question,
        embedding=pack_embedding(embedding),
        answer=ANSWER,
        payload=[],
        finish_reason="stop",
        usage={"prompt_tokens": 900, "completion_tokens": 100},
        doc_ids=("docs/one.md",),
        passage_ids=("docs/one.md#3",),
        created_at=0.0,
        expires_at=9e9,
    )


def _real_questions() -> tuple[list[str], Float32Array]:
    asked = ("How do I {}?", "Where can I {}?", "What does it cost to {}?", "When may one {}?")
    deeds = """open an account; renew a passport; book a table; return a parcel; read the meter;
    rotate a key; index a folder; cancel a flight; report a fault; change an address; claim a
    refund; measure latency; grow tomatoes; tune a guitar; learn to sail; train a model; mend a
    bike; bake bread; adopt a dog; rent a van; file a tax return; register a birth; sell a house;
    restart the server; restore a backup; invite a guest; export the data; find a dentist""".split(
        ";"
    )
    questions = [form.format(" ".join(deed.split())) for form in asked for deed in deeds]
    embedder = load_embedder(MINILM, threads=1)
    vectors = embedder.encode_queries(questions)
    embedder.close()
    return questions, vectors


def _spread(vectors: Float32Array, n: int, *, noise: float = 0.8, seed: int = 0) -> Float32Array:
    """n unit vectors around the given ones; noise is relative to their length."""
    rng = np.random.default_rng(seed)
    dim = vectors.shape[1]
    moved = vectors[np.arange(n) % len(vectors)]
    moved = moved + noise / np.sqrt(dim) * rng.standard_normal((n, dim))
    unit: Float32Array = (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _word(number: int) -> str:
    """A number in letters: a number in digits would be vetoed, and not compared any further."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


def to_table(rows: list[Row]) -> str:
    lines = ["| entries | what | p50 ms, or bytes | p99 ms | served |", "|---|---|---|---|---|"]
    for row in rows:
        cells = []
        for name in ("p50", "p99", "hits"):
            value = row.get(name)
            is_large = isinstance(value, float) and value >= 100
            cells.append(
                f"{value:.0f}" if is_large else f"{value:.3f}" if value is not None else ""
            )
        lines.append(f"| {row['entries']} | {row['what']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print_header()
    print(to_table(bench()))
