"""API keys as text and as stored: `rr_live_ID_SECRETchecksum`, and a record with a digest.

The secret has 256 random bits, so a plain SHA-256 of it is enough; with a pepper, which is not
in the store, a digest is of no use to whoever reads the store. The checksum tells a slip of the
pen from a guess. Storing them is `key_store.py`'s.
"""

import hmac
import re
import secrets
import zlib
from hashlib import sha256
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from api.admission.caller import Caller, KeyBudget, LimitOverride, Scope
from api.settings.types import Secret

PREFIX = "rr_live_"
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 10
_SECRET_LENGTH = 43
"""62^43 is the least that holds 2^256."""
_SHAPE = re.compile(
    rf"({PREFIX}([0-9A-Za-z]{{{_ID_LENGTH}}})_([0-9A-Za-z]{{{_SECRET_LENGTH}}}))"
    r"([0-9a-f]{8})"
)
KEY_ID = re.compile(rf"[0-9A-Za-z]{{{_ID_LENGTH}}}")

KeyState = Literal["active", "expired", "revoked"]
# Printable in a terminal: no control, line or direction characters.
Name = Annotated[
    str,
    Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]{1,64}\Z"),
]
Label = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._@-]{1,64}\Z")]


class ApiKey(msgspec.Struct, frozen=True):
    """A key as its owner holds it."""

    id: str
    secret: Secret

    def text(self) -> Secret:
        """Return what its owner is given, once."""
        body = f"{PREFIX}{self.id}_{self.secret}"
        return Secret(body + _checksum(body))


def new_api_key(id: str | None = None) -> ApiKey:
    """Make a key, or another secret for the key of that id."""
    id = id or _base62(secrets.randbelow(62**_ID_LENGTH), _ID_LENGTH)
    return ApiKey(id, Secret(_base62(secrets.randbits(256), _SECRET_LENGTH)))


def read_api_key(text: str) -> ApiKey | None:
    """Return the key, or None for what no key of ours can be."""
    found = _SHAPE.fullmatch(text)
    if found is None:
        return None
    body, id, secret, checksum = found.groups()
    return ApiKey(id, Secret(secret)) if checksum == _checksum(body) else None


def digest_of(key: ApiKey, pepper: bytes = b"") -> str:
    """Return what is kept of a secret: SHA-256, or HMAC-SHA-256 with a pepper, in hex."""
    secret = key.secret.encode()
    return hmac.digest(pepper, secret, "sha256").hex() if pepper else sha256(secret).hexdigest()


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()):08x}"


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


class KeyDigest(msgspec.Struct, frozen=True):
    """A secret as it is stored."""

    digest: str
    not_after: float | None = None
    """Seconds since the epoch: the end of a rotation's grace."""


class KeySpec(msgspec.Struct, frozen=True, kw_only=True):
    """What its owner may; bounds hold when it is stored and when it is read."""

    name: Name
    scopes: Annotated[frozenset[Scope], Meta(min_length=1)] = frozenset({"query"})
    tenant: Label = "public"
    groups: Annotated[tuple[Label, ...], Meta(max_length=32)] = ()
    budgets: Annotated[tuple[KeyBudget, ...], Meta(max_length=3)] = ()
    limits: Annotated[tuple[LimitOverride, ...], Meta(max_length=16)] = ()
    expires_at: Annotated[float, Meta(ge=0, le=1e10)] | None = None
    """Seconds since the epoch, as all times here."""


class KeyRecord(KeySpec, frozen=True, kw_only=True):
    """A key as it is stored."""

    id: str
    digests: tuple[KeyDigest, ...]
    """The newest first; a second one is valid during a rotation's grace."""
    created_at: float
    revoked_at: float | None = None
    version: str
    """Another with each change."""

    def has(self, digest: str) -> bool:
        """Whether the secret is, or was lately, this key's; takes the same time for every other."""
        found = [hmac.compare_digest(kept.digest, digest) for kept in self.digests]
        return any(found)

    def admits(self, digest: str, now_s: float) -> bool:
        """Whether the secret lets in at that time."""
        valid = [
            hmac.compare_digest(kept.digest, digest)
            and (kept.not_after is None or now_s < kept.not_after)
            for kept in self.digests
        ]
        return any(valid) and self.state(now_s) == "active"

    def state(self, now_s: float) -> KeyState:
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and now_s >= self.expires_at:
            return "expired"
        return "active"

    def rotates_until(self, now_s: float) -> float | None:
        """Return when the secret before the newest ends; None where it has."""
        ends = [kept.not_after for kept in self.digests if kept.not_after is not None]
        return max((end for end in ends if end > now_s), default=None)

    def caller(self) -> Caller:
        return Caller(
            tenant=self.tenant,
            scopes=self.scopes,
            key_id=self.id,
            groups=self.groups,
            budgets=self.budgets,
            limits=self.limits,
        )
