"""Read files within bounds of memory: no size, line or gzip bomb gets past them."""

import gzip
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

MAX_BYTES = 64 * 1024 * 1024
"""Of one text or JSON file, unpacked, and of one line of a .jsonl corpus."""
MAX_EXPANSION = 100
"""Text packs 3- to 10-fold, deflate's limit is 1032-fold: beyond this it is a bomb."""
HARMLESS_BYTES = 2 * 1024 * 1024
"""Up to here a file may unpack as it likes."""
CHUNK = 1024 * 1024
_TOO_LARGE = f"larger than {MAX_BYTES >> 20} MiB"


class Unreadable(Exception):
    """Why a file, or the rest of it, is skipped."""


def read_text(path: Path) -> str:
    """The file as UTF-8. Raises Unreadable, as all functions here do."""
    raw = read_bytes(path)
    text = decode(raw)
    if "\0" in text:
        raise Unreadable(f"not text: byte {raw.index(0)} is zero")
    return text


def read_bytes(path: Path) -> bytes:
    """The whole file, unpacked when it ends in .gz."""
    blocks: list[bytes] = []
    size = 0
    for block in _blocks(path, most=MAX_BYTES):
        size += len(block)
        if size > MAX_BYTES:
            raise Unreadable(_TOO_LARGE)
        blocks.append(block)
    return b"".join(blocks)


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines, from 1. The file may be of any size, a line may not."""
    number, rest = 1, b""
    for block in _blocks(path):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield number, line
            number += 1
        if len(rest) > MAX_BYTES:
            raise Unreadable(f"line {number}: longer than {MAX_BYTES >> 20} MiB")
    if rest:
        yield number, rest


def _at_once(path: str, flags: int) -> int:
    """Open without blocking: a pipe that took the file's place would be waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def decode(raw: bytes) -> str:
    """From UTF-8, with or without a byte order mark. Raises Unreadable."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise Unreadable(f"not UTF-8 at byte {exc.start}") from None


def _blocks(path: Path, most: int | None = None) -> Iterator[bytes]:
    """Raises Unreadable; for a file of more than `most` bytes on disk before anything is read."""
    try:
        with open(path, "rb", opener=_at_once) as raw:
            status = os.fstat(raw.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable("not a regular file")
            if most is not None and status.st_size > most:
                raise Unreadable(_TOO_LARGE)
            packed = path.name.lower().endswith(".gz")
            file = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if packed else raw
            unpacked = 0
            while block := file.read(CHUNK):
                yield block
                unpacked += len(block)
                if packed and unpacked > max(HARMLESS_BYTES, MAX_EXPANSION * raw.tell()):
                    raise Unreadable(f"unpacks to more than {MAX_EXPANSION} times its size")
    except (EOFError, gzip.BadGzipFile, zlib.error) as exc:
        raise Unreadable(f"damaged gzip file: {exc}") from None
    except OSError as exc:
        raise Unreadable(exc.strerror or str(exc)) from None
