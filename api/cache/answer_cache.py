"""The answer cache: find an earlier answer to the same question, or to one that means the same.

In this process's memory, over a shared Redis or Valkey. A lookup sees one partition alone, and
nothing that the store does raises there: it can only turn a hit into a miss. Deletions are
different, their caller must know: they raise StoreDown.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Literal

import msgspec

from api.background import Background
from api.cache.entries import (
    CacheKey,
    Entry,
    decode_entry,
    encode_entry,
    entry_id,
    entry_key,
    moved_id,
    pack_embedding,
    partition_of,
)
from api.cache.features import read_question
from api.cache.local_copy import LocalCopy, question_hash
from api.cache.replica import Replica
from api.cache.store import PAGE, Added, Blocked, Change, Deleted, Store, Voided, Write
from api.cache.verifier import CrossEncoderVerifier
from api.cache.vetoes import veto
from api.stores.calls import StoreDown, StoreRefused
from retrieval.types import Float32Array

MAX_BYTES = 256 << 20
MAX_SCANNED = 1_000_000
SWEEP_EVERY_S = 60.0
CLOSE_S = 2.0

Kind = Literal["exact", "semantic"]


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A cached answer that may serve the question."""

    kind: Kind
    entry: Entry
    similarity: float
    age_s: float


class CacheStats(msgspec.Struct, frozen=True, kw_only=True):
    entries: int
    size_bytes: int
    hits: dict[str, int]
    """By kind."""
    misses: dict[str, int]
    """By the layer that missed: exact, semantic."""
    vetoes: dict[str, int]
    """By reason; also blocked, verifier."""
    evicted: int
    dropped_writes: int
    store: Literal["ok", "down", "off"]


class AnswerCache:
    """Look up, store and delete answers. `start` it to follow the shared store."""

    def __init__(
        self,
        *,
        threshold: float | None,
        max_bytes: int = MAX_BYTES,
        store: Store | None = None,
        verifier: CrossEncoderVerifier | None = None,
        clock: Callable[[], float] = time.time,
        sweep_every_s: float = SWEEP_EVERY_S,
    ) -> None:
        """`threshold` is a cosine of the cache's embedding model; None: the exact layer alone."""
        self.threshold = threshold
        self._verifier = verifier
        self._clock = clock
        self._copy = LocalCopy(max_bytes, store=store, clock=clock)
        self._replica = Replica(store, self._copy) if store is not None else None
        self._sweep_every_s = sweep_every_s
        self._sweeping = Background("cache sweep")
        self._hits: Counter[str] = Counter()
        self._misses: Counter[str] = Counter()
        self._vetoes: Counter[str] = Counter()

    def start(self) -> None:
        """Load from the store, follow it, write to it; forget what expires: in the background."""
        self._sweeping.start(self._sweep_for_ever())
        if self._copy.writer is not None and self._replica is not None:
            self._copy.writer.start()
            self._replica.start()

    async def close(self, deadline_s: float = CLOSE_S) -> None:
        await self._sweeping.stop()
        if self._copy.writer is not None and self._replica is not None:
            await self._replica.close()
            await self._copy.writer.close(deadline_s)

    async def lookup_exact(self, asked: CacheKey, *, max_age_s: float | None = None) -> Hit | None:
        """The answer to the same question, after the same history."""
        entry = None
        if asked.id in self._copy.residents or not self._copy.knows_all:
            entry = await self._copy.entry(asked.id)
        if entry is not None and self._may_serve(entry, asked.question, max_age_s):
            return self._hit("exact", entry, 1.0)
        self._misses["exact"] += 1
        return None

    async def lookup_semantic(
        self, asked: CacheKey, *, max_age_s: float | None = None, threshold: float = 0.0
    ) -> Hit | None:
        """The answer to the nearest question that nothing speaks against.

        `threshold` can tighten the cache's own, never loosen it.
        """
        question, embedding = asked.question, asked.embedding
        if self.threshold is None or embedding is None:
            return None
        features = read_question(question)
        residents, at_least = self._copy.residents, max(self.threshold, threshold)
        for near in residents.near(asked.partition, embedding, at_least, self._clock()):
            resident = residents.find(near.id)
            if resident is None:
                continue
            if reason := veto(features, read_question(resident.question)):
                self._vetoes[reason] += 1
                continue
            entry = await self._copy.entry(near.id)
            if entry is None or not self._may_serve(entry, question, max_age_s):
                continue
            if await self._is_accepted(question, entry):
                return self._hit("semantic", entry, near.similarity)
        self._misses["semantic"] += 1
        return None

    def may_share(self, id: str, question: str) -> bool:
        """Whether no feedback keeps this question from that entry."""
        return self._copy.may_share(id, question)

    def put(self, entry: Entry) -> None:
        """Serve an entry from now on, and store it in the background."""
        left_s = entry.expires_at - self._clock()
        if left_s <= 0:
            return
        self._copy.residents.add(entry, time.monotonic())
        if self._copy.writer is not None:
            ttl_ms = max(1, int(left_s * 1000))
            command = ("SET", entry_key(entry.id), encode_entry(entry), "PX", ttl_ms)
            self._copy.writer.submit(Write([command], Added(entry.id)))

    def semantic_ids_outside(self, new: str) -> list[str]:
        """Ids that the semantic layer knows, but in the generation `new`, lately used first."""
        residents = self._copy.residents
        return [
            id
            for id in residents.lately_used()
            if (resident := residents.find(id)) is not None
            and resident.generation != new
            and moved_id(id, new) not in residents
            and residents.embedding(id) is not None
        ]

    async def entry(self, id: str) -> tuple[Entry, Float32Array] | None:
        """An entry that the semantic layer knows, and its question's embedding."""
        entry, embedding = await self._copy.entry(id), self._copy.residents.embedding(id)
        return None if entry is None or embedding is None else (entry, embedding)

    def carry(self, entry: Entry, embedding: Float32Array, generation: str) -> bool:
        """Let an entry serve another generation as well, until it expires as it would have.

        False for one that has been deleted since it was read.
        """
        if entry.id not in self._copy.residents:
            return False
        id, packed = moved_id(entry.id, generation), pack_embedding(embedding)
        self.put(msgspec.structs.replace(entry, id=id, generation=generation, embedding=packed))
        return True

    async def delete_entry(self, id: str, *, tenant: str | None = None) -> bool:
        """Whether there was such an entry (of the tenant). Raises StoreDown."""
        entry = await self._copy.require(id)
        if entry is None or tenant not in (None, entry.tenant):
            return False
        await self._delete([id], Deleted([id]))
        return True

    async def delete_document(self, doc_id: str) -> int:
        """Delete what cites a document; how many. Raises StoreDown."""
        return await self._void(Voided("document", doc_id, self._clock()))

    async def delete_tenant(self, tenant: str) -> int:
        return await self._void(Voided("tenant", tenant, self._clock()))

    async def delete_all(self) -> int:
        return await self._void(Voided("all", "", self._clock()))

    async def reject(self, id: str, question: str) -> None:
        """A served answer was wrong: delete its entry, keep this question from it for good.

        Raises StoreDown when it is done in this process alone.
        """
        if entry_id(partition_of(id), question) != id:
            blocked = Blocked(id, question_hash(question))
            self._copy.apply(blocked)
            if self._copy.writer is not None:
                self._copy.writer.submit(Write([], blocked))
        await self._delete([id], Deleted([id]))

    def keep_generations(self, generations: Iterable[str]) -> int:
        """Free what belongs to other generations; their partitions are out of reach anyway."""
        return self._copy.keep_generations(generations)

    def stats(self) -> CacheStats:
        store, writer, residents = self._copy.store, self._copy.writer, self._copy.residents
        state: Literal["ok", "down", "off"] = "off"
        if store is not None:
            state = "down" if store.breaker.is_open else "ok"
        return CacheStats(
            entries=len(residents),
            size_bytes=residents.size_bytes,
            hits=dict(self._hits),
            misses=dict(self._misses),
            vetoes=dict(self._vetoes),
            evicted=residents.evicted,
            dropped_writes=writer.dropped if writer is not None else 0,
            store=state,
        )

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_every_s)
            await self._copy.forget_expired()

    def _may_serve(self, entry: Entry, question: str, max_age_s: float | None) -> bool:
        now = self._clock()
        too_old = max_age_s is not None and now - entry.created_at > max_age_s
        if too_old or entry.expires_at <= now:
            return False
        if not self.may_share(entry.id, question):
            self._vetoes["blocked"] += 1
            return False
        return True

    async def _is_accepted(self, question: str, entry: Entry) -> bool:
        if self._verifier is None or await self._verifier.verify(question, entry) == "accept":
            return True
        self._vetoes["verifier"] += 1
        return False

    def _hit(self, kind: Kind, entry: Entry, similarity: float) -> Hit:
        self._hits[kind] += 1
        self._copy.residents.touch(entry.id)
        if self._copy.writer is not None:
            self._copy.writer.touch(entry.id)
        age_s = max(0.0, self._clock() - entry.created_at)
        return Hit(kind=kind, entry=entry, similarity=similarity, age_s=age_s)

    async def _void(self, void: Voided) -> int:
        ids = set(self._copy.forget_voided(void))
        if self._copy.store is not None and not self._copy.knows_all:
            ids |= await self._find_in_store(self._copy.store, void)
        await self._delete(sorted(ids), void)
        return len(ids)

    async def _find_in_store(self, store: Store, void: Voided) -> set[str]:
        """Ids in the store that a void holds, where this process may not know all of them."""
        found: set[str] = set()
        try:
            async for keys in store.scan(MAX_SCANNED):
                for value in await store.get_many(keys):
                    entry = decode_entry(value) if value is not None else None
                    if entry is not None and void.holds(entry):
                        found.add(entry.id)
                await asyncio.sleep(0)  # requests go first
        except StoreRefused as exc:
            raise StoreDown(str(exc)) from exc
        return found

    async def _delete(self, ids: list[str], change: Change) -> None:
        for id in ids:
            self._copy.residents.remove(id)
        if self._copy.writer is not None:
            pages = (ids[start : start + PAGE] for start in range(0, len(ids), PAGE))
            commands = [("DEL", *map(entry_key, page)) for page in pages]
            await self._copy.writer.submit_and_wait(Write(list(commands), change))
