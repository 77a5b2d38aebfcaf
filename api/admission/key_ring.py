"""API keys this process has seen, so that they go on working for a while without Redis.

The store confirms a record's version with every request. While it is down, records confirmed
within `offline_s` go on serving: a revocation may come so late, never later.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from api.admission.caller import Caller
from api.admission.key_store import KeyStore
from api.admission.keys import KeyDigest, KeyRecord
from api.admission.limits import Limits, limits_of_key

MAX_KNOWN = 10_000
OFFLINE_S = 300.0

NOBODY = KeyRecord(
    id="", name="nobody", digests=(KeyDigest("0" * 64),), created_at=0, revoked_at=0, version=""
)
"""Compared with in place of a record that is not there, so that both take the same time."""


class Known(msgspec.Struct):
    """A key's record with the caller and limits that follow from it."""

    record: KeyRecord
    caller: Caller
    limits: Limits
    confirmed_at: float
    """On the clock of this process."""


class KeyRing:
    """Known keys by id, the least lately confirmed forgotten first."""

    def __init__(
        self,
        store: KeyStore,
        limits: Limits,
        *,
        offline_s: float = OFFLINE_S,
        max_known: int = MAX_KNOWN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._limits = limits
        self._offline_s = offline_s
        self._max_known = max_known
        self._clock = clock
        self._known: OrderedDict[str, Known] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, id: str) -> Known | None:
        return self._known.get(id)

    async def fetch(self, id: str) -> Known | None:
        """Read the record anew; None where there is none.

        Raises KeysDown, and does not forget what it knew.
        """
        record = await self._store.get(id)
        if record is None:
            self._known.pop(id, None)
            return None
        limits = limits_of_key(self._limits, record.limits)
        known = Known(record, record.caller(), limits, self._clock())
        self._known[id] = known
        if len(self._known) > self._max_known:
            self._known.popitem(last=False)
        return known

    def confirm(self, known: Known) -> None:
        """The store has just told that the record is the newest."""
        known.confirmed_at = self._clock()
        if known.record.id in self._known:
            self._known.move_to_end(known.record.id)

    def forget(self, id: str) -> None:
        """The store has told that the record has changed."""
        self._known.pop(id, None)

    def serves_offline(self, known: Known) -> bool:
        """Whether a record may serve unconfirmed; not one that was forgotten meanwhile."""
        is_newest = self._known.get(known.record.id) is known
        return is_newest and self._clock() - known.confirmed_at < self._offline_s
