"""This process's copy of the shared cache: reads an entry from memory, else from Redis.

Also applies what other processes wrote and deleted, as `replica.py` reads it.
"""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from api.cache.admissible import normalise
from api.cache.entries import Entry, decode_entry, entry_key
from api.cache.residents import Resident, Residents
from api.cache.store import Blocked, Change, Deleted, Store, Voided, Write
from api.cache.writer import Writer
from api.stores.calls import StoreDown, StoreRefused

MAX_BLOCKS = 10_000
VOID_S = 600.0
"""How long a deletion is remembered against writes of other processes that it overtook."""


class LocalCopy:
    """Entries in memory, over `store`; without one, memory is all there is."""

    def __init__(self, max_bytes: int, *, store: Store | None, clock: Callable[[], float]) -> None:
        self.residents = Residents(max_bytes, has_store=store is not None)
        self.writer = Writer(store) if store is not None else None
        self.store = store
        self._clock = clock
        self._blocks: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._voids: list[Voided] = []
        self._live_generations: frozenset[str] | None = None
        self._is_whole = store is None
        self._sync_began = 0.0
        self._kept_anyway: set[str] = set()

    @property
    def knows_all(self) -> bool:
        """Whether a miss here is a miss in the store as well, give or take the log's delay."""
        return self._is_whole and not self.residents.evicted

    async def entry(self, id: str) -> Entry | None:
        """None too when the store does not answer."""
        try:
            return await self.require(id)
        except StoreDown:
            return None

    async def require(self, id: str) -> Entry | None:
        """From memory, else from the store; what the store has lost is forgotten.

        Raises StoreDown.
        """
        payload = self.residents.payload(id)
        if payload is not None:
            return decode_entry(payload)
        if self.store is None:
            return None
        try:
            value = await self.store.get(entry_key(id))
        except StoreRefused as exc:
            raise StoreDown(str(exc)) from exc
        entry = decode_entry(value) if value is not None else None
        if entry is None or entry.id != id or not self._is_wanted(entry):
            self.residents.remove(id)
            return None
        if id in self.residents:
            self.residents.keep_payload(entry)
        else:
            self.residents.add(entry, time.monotonic())
        return entry

    def may_share(self, id: str, question: str) -> bool:
        """Whether no feedback keeps this question from that entry."""
        return (id, question_hash(question)) not in self._blocks

    def keep_generations(self, generations: Iterable[str]) -> int:
        live = self._live_generations = frozenset(generations)
        return self.forget(lambda resident: resident.generation not in live)

    def forget(self, is_meant: Callable[[Resident], bool]) -> int:
        ids = self.residents.matching(is_meant)
        for id in ids:
            self.residents.remove(id)
        return len(ids)

    async def forget_expired(self) -> None:
        """Looking takes 5 ms of the event loop for 100,000 entries."""
        now = self._clock()
        for id in self.residents.matching(lambda resident: resident.expires_at <= now):
            resident = self.residents.find(id)
            if resident is not None and resident.expires_at <= now:  # not put anew meanwhile
                self.residents.remove(id)
            await asyncio.sleep(0)  # requests go first

    def forget_voided(self, void: Voided) -> list[str]:
        now = self._clock()
        self._voids = [old for old in self._voids if old.at > now - VOID_S] + [void]
        ids = self.residents.matching(void.holds)
        for id in ids:
            self.residents.remove(id)
        return ids

    # What the replica calls.

    def load(self, value: bytes) -> None:
        entry = decode_entry(value)
        if entry is not None and self._is_wanted(entry):
            self.residents.add(entry, time.monotonic())

    def apply(self, change: Change) -> None:
        match change:
            case Deleted():
                for id in change.ids:
                    self.residents.remove(id)
            case Blocked():
                self._blocks[change.id, change.question] = None
                while len(self._blocks) > MAX_BLOCKS:
                    self._blocks.popitem(last=False)
            case Voided():
                ids = self.forget_voided(change)
                if ids and self.writer is not None:
                    # Behind our own writes, which the other process could not see.
                    self.writer.submit(Write([("DEL", *map(entry_key, ids))]))

    def begin_sync(self) -> None:
        self._sync_began = time.monotonic()
        self._kept_anyway = self.writer.pending() if self.writer is not None else set()

    def end_sync(self, confirmed: set[str] | None, *, is_whole: bool) -> None:
        """Forget what the store no longer holds.

        `confirmed`: ids that it holds; None keeps all.
        """
        self._is_whole = is_whole
        if confirmed is not None:
            kept = confirmed | self._kept_anyway
            began = self._sync_began
            self.forget(lambda held: held.id not in kept and held.loaded_at < began)

    def _is_wanted(self, entry: Entry) -> bool:
        if self._live_generations is not None and entry.generation not in self._live_generations:
            return False
        return entry.expires_at > self._clock() and not any(
            void.holds(entry) for void in self._voids
        )


def question_hash(question: str) -> str:
    return hashlib.sha256(normalise(question).encode()).hexdigest()[:24]
