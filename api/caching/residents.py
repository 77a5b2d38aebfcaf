"""What one process holds of the cache: an index for each partition, payloads, and their bytes.

Both are bounded, least recently used first. A payload that the store holds too may go alone; its
entry stays findable and the payload is read again on a hit.
"""

from collections import OrderedDict
from collections.abc import Callable
from sys import intern

import msgspec

from api.caching.entries import Entry, encode_entry, partition_of, unpack_embedding
from api.caching.semantic import Near, SemanticIndex
from retrieval.types import Float32Array

ENTRY_BYTES = 700
"""Of the objects that hold one entry beside its texts and its index row; measured."""
PAYLOAD_SHARE = 0.6


class Resident(msgspec.Struct, gc=False):
    id: str
    tenant: str
    generation: str
    question: str
    doc_ids: tuple[str, ...]
    created_at: float
    expires_at: float
    loaded_at: float
    """Of this process's clock; tells what came after a synchronisation began."""
    size_bytes: int


class Residents:
    def __init__(self, max_bytes: int, *, has_store: bool) -> None:
        self.evicted = 0
        self._max_bytes = max_bytes
        self._has_store = has_store
        self._residents: OrderedDict[str, Resident] = OrderedDict()
        self._payloads: OrderedDict[str, bytes] = OrderedDict()
        self._indexes: dict[str, SemanticIndex] = {}
        self._entry_bytes = 0
        self._payload_bytes = 0

    def __len__(self) -> int:
        return len(self._residents)

    def __contains__(self, id: str) -> bool:
        return id in self._residents

    @property
    def size_bytes(self) -> int:
        return self._entry_bytes + self._payload_bytes

    def add(self, entry: Entry, loaded_at: float) -> None:
        """Add or replace, then make room."""
        self.remove(entry.id)
        row_bytes = self._index_entry(entry) if entry.embedding else 0
        resident = Resident(
            id=entry.id,
            tenant=intern(entry.tenant),
            generation=intern(entry.generation),
            question=entry.question,
            doc_ids=tuple(map(intern, entry.doc_ids)),
            created_at=entry.created_at,
            expires_at=entry.expires_at,
            loaded_at=loaded_at,
            size_bytes=ENTRY_BYTES + 2 * len(entry.question) + row_bytes,
        )
        self._residents[entry.id] = resident
        self._entry_bytes += resident.size_bytes
        self.keep_payload(entry)
        self._make_room()

    def keep_payload(self, entry: Entry) -> None:
        """Hold the payload of a resident entry; its embedding lies in the index already."""
        self._drop_payload(entry.id)
        payload = encode_entry(msgspec.structs.replace(entry, embedding=b""))
        self._payloads[entry.id] = payload
        self._payload_bytes += len(payload)

    def remove(self, id: str) -> bool:
        resident = self._residents.pop(id, None)
        if resident is None:
            return False
        self._entry_bytes -= resident.size_bytes
        self._drop_payload(id)
        partition = partition_of(id)
        index = self._indexes.get(partition)
        if index is not None:
            index.remove(id)
            if not len(index):
                del self._indexes[partition]
        return True

    def touch(self, id: str) -> None:
        if id in self._residents:
            self._residents.move_to_end(id)
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

    def matching(self, is_meant: Callable[[Resident], bool]) -> list[str]:
        return [id for id, resident in self._residents.items() if is_meant(resident)]

    def _index_entry(self, entry: Entry) -> int:
        embedding = unpack_embedding(entry.embedding)
        index = self._index(entry.partition, len(embedding))
        if index.dim != len(embedding):
            return 0  # of a writer that disagrees about the model: found exactly, or not at all
        index.add(entry.id, embedding, entry.expires_at)
        return index.row_bytes

    def _index(self, partition: str, dim: int) -> SemanticIndex:
        index = self._indexes.get(partition)
        if index is None:
            index = self._indexes[partition] = SemanticIndex(dim)
        return index

    def _drop_payload(self, id: str) -> None:
        payload = self._payloads.pop(id, None)
        if payload is not None:
            self._payload_bytes -= len(payload)

    def _make_room(self) -> None:
        if self._has_store:
            while self._payload_bytes > PAYLOAD_SHARE * self._max_bytes and self._payloads:
                self._drop_payload(next(iter(self._payloads)))
        while self.size_bytes > self._max_bytes and self._residents:
            self.remove(next(iter(self._residents)))
            self.evicted += 1
