"""Answer a request that is repeated under its Idempotency-Key with what it was answered before.

Kept in this process, for an hour, within bounds: it is for a client that lost the answer on the
way, not a store. https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from types import TracebackType

import msgspec

from api.errors import Conflict, Invalid

KEEP_S = 3600.0
MAX_ENTRIES = 1000
MAX_BYTES = 32 << 20
MAX_KEY_CHARS = 255

Key = tuple[str, ...]

_encoder = msgspec.json.Encoder(order="sorted")


class _Entry(msgspec.Struct):
    fingerprint: bytes
    body: bytes | None = None
    """None while it is being answered."""
    kept_at: float = 0.0


class Idempotency:
    """By owner and key. What is being answered is never dropped, and bounded by its requests."""

    def __init__(
        self,
        *,
        keep_s: float = KEEP_S,
        max_entries: int = MAX_ENTRIES,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keep_s = keep_s
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._clock = clock
        self._running: dict[Key, _Entry] = {}
        self._kept: OrderedDict[Key, _Entry] = OrderedDict()
        self._n_bytes = 0

    def __len__(self) -> int:
        return len(self._running) + len(self._kept)

    def claim(self, key: Key, fingerprint: bytes) -> bytes | None:
        """Return what was answered; None to the one who is to answer now. Raises Conflict."""
        self._drop_old()
        entry = self._kept.get(key) or self._running.get(key)
        if entry is None:
            self._running[key] = _Entry(fingerprint)
            return None
        if entry.fingerprint != fingerprint:
            raise Conflict("Idempotency-Key: was used with another body")
        if entry.body is None:
            raise Conflict("Idempotency-Key: its first request is still being answered")
        return entry.body

    def keep(self, key: Key, body: bytes) -> None:
        """Keep the answer of a claim; the oldest make room."""
        entry = self._running.pop(key)
        if len(body) > self._max_bytes:
            return
        entry.body, entry.kept_at = body, self._clock()
        self._kept[key] = entry
        self._n_bytes += len(body)
        self._drop_old()

    def release(self, key: Key) -> None:
        """Give a claim up that nothing came of: the next one may answer."""
        self._running.pop(key, None)

    def forget(self) -> None:
        """Drop all that was answered: it may tell of what has been deleted since."""
        self._kept.clear()
        self._n_bytes = 0

    def _drop_old(self) -> None:
        expired_at = self._clock() - self._keep_s
        while self._kept:
            entry = next(iter(self._kept.values()))
            is_full = len(self._kept) > self._max_entries or self._n_bytes > self._max_bytes
            if not is_full and entry.kept_at > expired_at:
                return
            self._kept.popitem(last=False)
            self._n_bytes -= len(entry.body or b"")


class Once:
    """One request under its key, or without one: `with` it, answer, `keep` the body."""

    def __init__(self, store: Idempotency, owner: tuple[str, str], key: str | None, body: object):
        """`body` is the request's, decoded. Raises Invalid for a key that is too long or empty."""
        if key is not None and not 1 <= len(key) <= MAX_KEY_CHARS:
            raise Invalid(f"Idempotency-Key: 1 to {MAX_KEY_CHARS} characters")
        self._store = store
        self._key: Key | None = None if key is None else (*owner, key)
        self._fingerprint = sha256(_encoder.encode(body)).digest()

    def __enter__(self) -> bytes | None:
        """Return what was answered before, if it was. Raises Conflict."""
        if self._key is None:
            return None
        return self._store.claim(self._key, self._fingerprint)

    def keep(self, body: bytes) -> None:
        if self._key is not None:
            self._store.keep(self._key, body)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._key is not None:
            self._store.release(self._key)
