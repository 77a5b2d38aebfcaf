"""What settings are made of: groups, secrets, names of models."""

from typing import Any, NamedTuple

import msgspec
from msgspec import Meta


class Secret(str):
    """A string that does not show itself in logs or tracebacks."""

    def __repr__(self) -> str:
        return "'***'" if self else "''"


class Model(NamedTuple):
    """A model as settings name it: a hub id or a folder, and the commit on the hub."""

    id: str
    revision: str | None
    """None: the commit that we tested, or the newest."""


def read_model(name: str) -> Model:
    """Read `owner/name@commit`; a folder may have an @ in any part but its last."""
    id, at, revision = name.rpartition("@")
    return Model(id, revision) if at and "/" not in revision else Model(name, None)


def seconds(description: str, *, ge: float = 0.1) -> Any:
    return Meta(ge=ge, le=3600, description=description)


class Group(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True): ...
