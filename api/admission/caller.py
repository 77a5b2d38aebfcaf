"""Who sent a request and what they may do: the caller, limits, and the documents they may see."""

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from api.errors import Forbidden, Invalid
from retrieval.index.filters import View, parse_filters

Scope = Literal["query", "ingest", "admin"]
ALL_SCOPES: frozenset[Scope] = frozenset(get_args(Scope))

RouteClass = Literal[
    "query", "stream", "ab", "openai", "batch", "analytics", "admin", "search", "documents"
]
"""What is limited together."""
ROUTE_CLASSES: tuple[RouteClass, ...] = get_args(RouteClass)

MAX_PER_MINUTE = 10_000_000
"""Of a limit and of a cost: Lua counts exactly up to 2^53."""
PerMinute = Annotated[int, Meta(ge=0, le=MAX_PER_MINUTE)]


class Limit(msgspec.Struct, frozen=True):
    """What one subject may do a minute in one route class; 0 is unlimited."""

    requests: PerMinute = 0
    tokens: PerMinute = 0


class LimitOverride(msgspec.Struct, frozen=True, kw_only=True):
    """What a key has in place of the common limits of a class; None keeps the common one."""

    route_class: RouteClass
    requests: PerMinute | None = None
    tokens: PerMinute | None = None


class KeyBudget(msgspec.Struct, frozen=True):
    """What one key may spend in a window."""

    window: Literal["hour", "day", "month"]
    micro_eur: Annotated[int, Meta(ge=0, le=10**15)]


class Caller(msgspec.Struct, frozen=True):
    """Who sent a request: tenant, groups, scopes, and the limits and budgets of their key."""

    tenant: str
    scopes: frozenset[Scope]
    key_id: str = ""
    """Empty without a key; `settings` for AUTH_API_KEY."""
    groups: tuple[str, ...] = ()
    budgets: tuple[KeyBudget, ...] = ()
    limits: tuple[LimitOverride, ...] = ()

    def require(self, scope: Scope) -> None:
        """Raises Forbidden."""
        if scope not in self.scopes:
            raise Forbidden(f"this needs a key with the scope {scope}")


PUBLIC = Caller("public", ALL_SCOPES)
SETTINGS_KEY = Caller("public", ALL_SCOPES, key_id="settings")
"""Who has AUTH_API_KEY."""


def view_of(caller: Caller, filters: Mapping[str, object] | None = None) -> View:
    """Return which documents a caller may see, narrowed by filters. Raises Invalid for bad ones."""
    try:
        parsed = parse_filters(filters) if filters else None
    except ValueError as exc:
        raise Invalid(str(exc)) from exc
    return View(
        tenant=caller.tenant,
        groups=tuple(sorted(set(caller.groups))),
        all_groups="admin" in caller.scopes,
        filters=parsed,
    )
