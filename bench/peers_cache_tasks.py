"""What a peer's cache is asked to do, and what comes of it: the words of both processes."""

from typing import Any, NamedTuple

from retrieval.types import Float32Array

NONE = -1
"""As a row: nothing was served."""

Result = dict[str, Any]
"""version, and either left_out (why) or: cosine, the peer's shipped threshold; found, the cached
row that each asked question was served, or NONE; ms, for mode "all"."""


class Texts(NamedTuple):
    texts: list[str]
    vectors: Float32Array


class Task(NamedTuple):
    name: str
    mode: str
    """all: every question asked of all that is cached; each: row by row, a cache of its own."""
    cached: Texts
    asked: Texts
