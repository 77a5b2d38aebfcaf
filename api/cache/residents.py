"""Cache entries in this process's memory: embeddings to search, payloads, a bound in bytes.

Both are bounded, least recently used first. A payload that the store holds too may go alone; its
entry stays findable and the payload is read again on a hit.
"""

from collections import OrderedDict
from collections.abc import Callable
from sys import getsizeof, intern

import msgspec

from api.cache.entries import Entry, encode_entry, partition_of, unpack_embedding
from api.cache.semantic import Near, SemanticIndex
from retrieval.types import Float32Array

ENTRY_BYTES = 580
"""Of the objects that hold one entry beside its question, payload and index row; measured."""
INDEX_BYTES = 800
"""Of an index without rows; measured."""
PAYLOAD_SHARE = 0.6


class Resident(msgspec.Struct, gc=False):
    """What is held of one entry beside its embedding and payload."""

    id: str
    tenant: str
    generation: str
    question: str
    doc_ids: tuple[str, ...]
    created_at: float
    expires_at: float
    loaded_at: float
    """Of this process's clock; tells what came after a synchronisation began."""

    @property
    def size_bytes(self) -> int:
        """Less index row and payload."""
        return ENTRY_BYTES + 2 * len(self.question)


class Residents:
    """All entries held; the least recently used leave first."""

    def __init__(self, max_bytes: int, *, has_store: bool) -> None:
        self.evicted = 0
        self._max_bytes = max_bytes
        self._has_store = has_store
        self._residents: dict[str, Resident] = {}
        # Each resident is in one of these two, least recently used first: an order for all of
        # them would cost another 45 bytes an entry. The bare ones are older than the others.
        self._payloads: OrderedDict[str, bytes] = OrderedDict()
        self._bare: OrderedDict[str, None] = OrderedDict()
        self._indexes: dict[str, SemanticIndex] = {}
        self._entry_bytes = 0
        self._index_bytes = 0
        self._payload_bytes = 0

    def __len__(self) -> int:
        return len(self._residents)

    def __contains__(self, id: str) -> bool:
        return id in self._residents

    @property
    def size_bytes(self) -> int:
        return self._entry_bytes + self._index_bytes + self._payload_bytes

    def add(self, entry: Entry, loaded_at: float) -> None:
        """Add or replace, then make room."""
        self.remove(entry.id)
        resident = Resident(
            id=entry.id,
            tenant=intern(entry.tenant),
            generation=intern(entry.generation),
            question=entry.question,
            doc_ids=tuple(map(intern, entry.doc_ids)),
            created_at=entry.created_at,
            expires_at=entry.expires_at,
            loaded_at=loaded_at,
        )
        self._residents[entry.id] = resident
        self._entry_bytes += resident.size_bytes
        if entry.embedding:
            self._index_entry(entry)
        self.keep_payload(entry)

    def keep_payload(self, entry: Entry) -> None:
        """Hold the payload of a resident entry, then make room.

        Its embedding lies in the index already.
        """
        self._drop_payload(entry.id)
        self._bare.pop(entry.id, None)
        payload = encode_entry(msgspec.structs.replace(entry, embedding=b""))
        self._payloads[entry.id] = payload
        self._payload_bytes += getsizeof(payload)
        self._make_room()

    def remove(self, id: str) -> bool:
        resident = self._residents.pop(id, None)
        if resident is None:
            return False
        self._entry_bytes -= resident.size_bytes
        self._drop_payload(id)
        self._bare.pop(id, None)
        self._unindex(id)
        return True

    def touch(self, id: str) -> None:
        """Count a use; who was used has its payload here."""
        if id in self._payloads:
            self._payloads.move_to_end(id)

    def find(self, id: str) -> Resident | None:
        return self._residents.get(id)

    def payload(self, id: str) -> bytes | None:
        return self._payloads.get(id)

    def near(
        self, partition: str, embedding: Float32Array, threshold: float, now: float
    ) -> list[Near]:
        index = self._indexes.get(partition)
        return index.search(embedding, threshold, now) if index is not None else []

    def embedding(self, id: str) -> Float32Array | None:
        """What an entry is found by; None for one that the exact layer alone finds."""
        index = self._indexes.get(partition_of(id))
        return index.vector(id) if index is not None else None

    def lately_used(self) -> list[str]:
        """All ids, most recently used first."""
        return [*reversed(self._payloads), *reversed(self._bare)]

    def matching(self, is_meant: Callable[[Resident], bool]) -> list[str]:
        return [id for id, resident in self._residents.items() if is_meant(resident)]

    def _index_entry(self, entry: Entry) -> None:
        embedding = unpack_embedding(entry.embedding)
        index = self._indexes.get(entry.partition)
        if index is None:
            index = self._indexes[entry.partition] = SemanticIndex(len(embedding))
            self._index_bytes += INDEX_BYTES
        if index.dim != len(embedding):
            return  # of a writer that disagrees about the model: found exactly, or not at all
        before = index.used_bytes
        index.add(entry.id, embedding, entry.expires_at)
        self._index_bytes += index.used_bytes - before

    def _unindex(self, id: str) -> None:
        partition = partition_of(id)
        index = self._indexes.get(partition)
        if index is None:
            return
        before = index.used_bytes
        index.remove(id)
        self._index_bytes += index.used_bytes - before
        if not len(index):
            del self._indexes[partition]
            self._index_bytes -= INDEX_BYTES

    def _drop_payload(self, id: str) -> None:
        payload = self._payloads.pop(id, None)
        if payload is not None:
            self._payload_bytes -= getsizeof(payload)

    def _make_room(self) -> None:
        if self._has_store:
            while self._payload_bytes > PAYLOAD_SHARE * self._max_bytes and self._payloads:
                id = next(iter(self._payloads))
                self._drop_payload(id)
                self._bare[id] = None
        while self.size_bytes > self._max_bytes and self._residents:
            self.remove(next(iter(self._bare or self._payloads)))
            self.evicted += 1
