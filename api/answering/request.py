"""What a caller asks: one question with the turns before it, and how it is to be answered."""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from retrieval.language.characters import require_text

_MAX_AGE = re.compile(r"max-age=(\d{1,9})")


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    role: Literal["user", "assistant"]
    content: Annotated[str, Meta(min_length=1, max_length=8000)]

    def __post_init__(self) -> None:
        require_text(self.content)


class AnswerRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked. How long it may be, and how much it may want, each route bounds for itself."""

    query: str
    top_k: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    history: list[Message] = []
    """Earlier turns, oldest first."""
    filters: dict[str, Any] | None = None
    """Which documents may be answered from, by their metadata (`retrieval.index.filters`)."""


class CacheControl(msgspec.Struct, frozen=True):
    """What the Cache-Control header of a request asks for."""

    may_read: bool = True
    may_store: bool = True
    max_age_s: float | None = None

    @classmethod
    def of(cls, header: str) -> "CacheControl":
        if not header:
            return READ_AND_STORE
        directives = header.lower()
        found = _MAX_AGE.search(directives)
        return cls(
            may_read="no-cache" not in directives and "no-store" not in directives,
            may_store="no-store" not in directives,
            max_age_s=float(found.group(1)) if found else None,
        )


READ_AND_STORE = CacheControl()
