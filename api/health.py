"""How a part of the service is, and how the whole is: the values behind the health routes."""

from typing import Literal

import msgspec

Status = Literal["ok", "loading", "unavailable", "draining"]


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """State of one part; `ms` is how long asking it took."""

    status: Literal["ok", "down", "off"]
    ms: float | None = None
    detail: str | None = None


class Health(msgspec.Struct, frozen=True):
    status: Status
    checks: dict[str, Check]
