"""The door: API key → caller."""

import hmac
from collections.abc import Mapping
from typing import Literal

import msgspec

from api.errors import Unauthorized
from api.setting_groups import AuthSettings

Scope = Literal["query", "ingest", "admin"]
ALL_SCOPES: frozenset[Scope] = frozenset({"query", "ingest", "admin"})


class Caller(msgspec.Struct, frozen=True):
    tenant: str
    scopes: frozenset[Scope]


PUBLIC = Caller("public", ALL_SCOPES)


class Door:
    """Admits by X-API-Key; with auth off everyone is PUBLIC."""

    def __init__(self, auth: AuthSettings) -> None:
        self._key = auth.api_key.encode() if auth.enabled else None

    def admit(self, headers: Mapping[str, str]) -> Caller:
        """Return who asks. Raises Unauthorized; takes the same time for every wrong key."""
        if self._key is None:
            return PUBLIC
        given = headers.get("x-api-key", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, self._key):
            raise Unauthorized("Invalid or missing API key")
        return PUBLIC
