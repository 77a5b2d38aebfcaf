"""Messages between the reading process and its parser processes, and the limits of one file.

A request is two frames (suffix, content), a reply one (a Reply in msgpack). A frame is its length
in 8 bytes, big-endian, then its bytes.
"""

from typing import IO

import msgspec


class ParseLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Of one file, but for `files`. What needs more fails with the limit as its reason."""

    memory_bytes: int = 1024 * 1024 * 1024
    """Address space of a parser process."""
    cpu_s: int = 60
    wall_s: float = 180.0
    pages: int = 2_000
    """Of a PDF; a hundred pages of text take about 2 s."""
    unpacked_bytes: int = 64 * 1024 * 1024
    """Of all parts of a .docx that hold text."""
    chars: int = 32 * 1024 * 1024
    """Of the text a file becomes."""
    files: int = 200
    """A process serves so many, then a fresh one takes over."""


class Parsed(msgspec.Struct, frozen=True):
    """`text` is Markdown, `title` empty where the file names none; `notes` say what is missing."""

    text: str
    title: str = ""
    notes: list[str] = []


class Reply(msgspec.Struct, frozen=True):
    parsed: Parsed | None
    is_last: bool
    """The process ends after this reply."""
    reason: str = ""
    """Why nothing was parsed."""


def write_frame(file: IO[bytes], payload: bytes) -> None:
    file.write(len(payload).to_bytes(8))
    file.write(payload)
    file.flush()


def read_frame(file: IO[bytes]) -> bytes | None:
    """None where the other side has closed or died, be it in the middle of a frame."""
    head = file.read(8)
    if len(head) < 8:
        return None
    size = int.from_bytes(head)
    payload = file.read(size)
    return payload if len(payload) == size else None
