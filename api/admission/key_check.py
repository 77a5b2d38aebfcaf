"""Check an API key: whose it is, and whether it is valid at this moment.

AUTH_API_KEY is compared here; keys of the store are looked up once a process and confirmed by
the version that the door's trip brings. Every wrong key of one form takes the same steps: its
record is read anew, and the failure is counted.
"""

import hmac
import time
from collections.abc import Callable, Mapping
from hashlib import sha256

import msgspec

from api.admission.caller import SETTINGS_KEY, Caller
from api.admission.failures import PER_MINUTE, Failures
from api.admission.key_ring import NOBODY, OFFLINE_S, KeyRing, Known
from api.admission.key_store import KeyStore, record_key
from api.admission.keys import PREFIX, ApiKey, read_api_key
from api.admission.limits import Limits
from api.admission.refusals import KeysDown
from api.admission.trip import Taken
from api.errors import Unauthorized
from api.logs import logger
from api.stores.calls import RedisCalls

GUESSABLE_BELOW = 24
"""An AUTH_API_KEY of fewer characters is not even compared while its address is blocked."""
MESSAGE = "Invalid or missing API key"
SETTINGS_SUBJECT = "key:settings"


class Visitor(msgspec.Struct):
    """Who asks, before it is counted and confirmed."""

    caller: Caller
    limits: Limits
    subject: str
    known: Known | None = None
    """None for who has no key of the store."""
    digest: str = ""

    @property
    def record_key(self) -> str:
        return record_key(self.known.record.id) if self.known else ""


class KeyCheck:
    """Checks the key of each request.

    Raises ValueError for an `api_key` that looks like one of the store.
    """

    def __init__(
        self,
        calls: RedisCalls,
        api_key: bytes,
        *,
        limits: Limits,
        pepper: bytes = b"",
        failures_per_minute: int = PER_MINUTE,
        offline_s: float = OFFLINE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if api_key.startswith(PREFIX.encode()):
            raise ValueError(f"AUTH_API_KEY may not begin with {PREFIX}: such keys lie in Redis")
        self.is_offline = False
        """Whether the last key of the store was taken unconfirmed."""
        self.failures = Failures(calls, per_minute=failures_per_minute, clock=clock)
        self._hash = sha256(api_key).digest()
        self._is_guessable = len(api_key) < GUESSABLE_BELOW
        self._limits = limits
        self._store = KeyStore(calls, pepper=pepper)
        self._ring = KeyRing(self._store, limits, offline_s=offline_s, clock=clock)

    def admits_at_once(self, headers: Mapping[str, str]) -> bool:
        """Whether it is AUTH_API_KEY; if not, only `identify` can tell."""
        if self._is_guessable and self.failures.blocks_anyone():
            return False
        given = _given_key(headers)
        return given is not None and self._is_settings_key(given)

    async def identify(self, headers: Mapping[str, str], client: str) -> Visitor:
        """Return whose key it is. Raises Unauthorized, RateLimited, KeysDown."""
        given = _given_key(headers)
        if given is None:
            raise Unauthorized(MESSAGE)
        key = read_api_key(given)
        if key is not None:
            return await self._identify_key(key, client)
        if given.startswith(PREFIX):  # a slip of the pen: it can be no key at all
            raise Unauthorized(MESSAGE)
        if self._is_guessable:
            self.failures.refuse_blocked(client)
        if not self._is_settings_key(given):
            await self.failures.count(client)
            raise Unauthorized(MESSAGE)
        return Visitor(SETTINGS_KEY, self._limits, SETTINGS_SUBJECT)

    async def confirmed(self, visitor: Visitor, taken: Taken | None) -> Caller:
        """Return the caller by the newest record. Raises Unauthorized, KeysDown.

        `taken` is the trip that asked for `visitor.record_key`, None if the store was down.
        """
        known = visitor.known
        if known is None:
            return visitor.caller
        self._note_offline(taken is None)
        if taken is None:
            if not self._ring.serves_offline(known):
                raise KeysDown("the key store does not answer")
        elif taken.version == known.record.version:
            self._ring.confirm(known)
        else:
            known = await self._renewed(known)
        now_s = time.time() if taken is None else taken.now_s
        if not known.record.admits(visitor.digest, now_s):
            raise Unauthorized(MESSAGE)
        return known.caller

    async def _identify_key(self, key: ApiKey, client: str) -> Visitor:
        digest = self._store.digest(key)
        known = self._ring.get(key.id)
        if known is None or not known.record.has(digest):
            known = await self._ring.fetch(key.id)
        record = known.record if known else NOBODY
        if not record.has(digest) or known is None:
            await self.failures.count(client)
            raise Unauthorized(MESSAGE)
        return Visitor(known.caller, known.limits, f"key:{key.id}", known, digest)

    async def _renewed(self, known: Known) -> Known:
        # Forgotten first: if the store goes down now, what has changed must not serve offline.
        self._ring.forget(known.record.id)
        fresh = await self._ring.fetch(known.record.id)
        if fresh is None:
            raise Unauthorized(MESSAGE)
        return fresh

    def _is_settings_key(self, given: str) -> bool:
        # As it came over the wire: ASGI's header bytes were read as Latin-1.
        raw = given.encode("latin-1", "backslashreplace")
        return hmac.compare_digest(sha256(raw).digest(), self._hash)

    def _note_offline(self, is_offline: bool) -> None:
        if is_offline == self.is_offline:
            return
        self.is_offline = is_offline
        if is_offline:
            logger.warning("keys seen lately serve unconfirmed")
        else:
            logger.info("keys are confirmed again")


def _given_key(headers: Mapping[str, str]) -> str | None:
    given = headers.get("x-api-key")
    if given is None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else None
    return given or None
