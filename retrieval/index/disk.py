"""Lock files, and files that are replaced atomically and survive a crash."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from retrieval.types import IndexBusy, IndexUnwritable


@contextmanager
def holding(lock: Path, *, busy: str | None = None) -> Iterator[None]:
    """Hold the lock file, made here with its directory; its holder's death frees it.

    While another process or thread holds it this waits, or raises IndexBusy saying `busy`.
    Raises IndexUnwritable.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("ab")
    except OSError as exc:
        raise IndexUnwritable(f"cannot write to {lock.parent}: {exc.strerror}") from exc
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise IndexBusy(busy) from None
        yield


def replace_whole(path: Path, content: bytes) -> None:
    """Let a reader, or a crash, see the old file or the new one. Raises IndexUnwritable."""
    draft = path.with_name(f"{path.name}.tmp")
    try:
        draft.write_bytes(content)
        # In this order: else a crash may leave the new name with nothing in it.
        sync(draft)
        os.replace(draft, path)
        sync(path.parent)
    except OSError as exc:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise IndexUnwritable(f"cannot write {path}: {exc.strerror}") from exc


def sync(path: Path) -> None:
    """Bring a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
