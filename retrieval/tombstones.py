"""Documents deleted since a generation was built: hidden at once, in every process.

DIR/tombstones.json is replaced as a whole, so a reader or a crash sees the old or the new one.
A tombstone (doc_id, seq) hides the document in generations built from changes before `seq`.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from retrieval.types import IndexCorrupt, IndexUnwritable

FILE = "tombstones.json"
LOCK = ".tombstones.lock"


class _Buried(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    documents: dict[str, int]
    """doc_id → the change that deleted it last."""


def bury(index_dir: str | Path, doc_ids: Iterable[str], seq: int) -> None:
    """Hide the documents in all generations before change `seq`; on disk once it returns.

    Raises IndexUnwritable, and IndexCorrupt where the file that is there cannot be read.
    """
    with _only_one(Path(index_dir)) as path:
        documents = _read(path)
        for doc_id in doc_ids:
            documents[doc_id] = max(seq, documents.get(doc_id, 0))
        _replace(path, documents)


def forget(index_dir: str | Path, *, oldest: int) -> None:
    """Drop the tombstones that no generation needs, the oldest kept being of change `oldest`."""
    if not (Path(index_dir) / FILE).exists():
        return
    with _only_one(Path(index_dir)) as path:
        documents = _read(path)
        needed = {doc_id: seq for doc_id, seq in documents.items() if seq > oldest}
        if needed != documents:
            _replace(path, needed)


class Tombstones:
    """The file as it was at the last `refresh`."""

    def __init__(self, index_dir: str | Path) -> None:
        self._path = Path(index_dir) / FILE
        self._stamp: tuple[int, int, int] | None = None
        self._documents: dict[str, int] = {}

    def refresh(self) -> bool:
        """Whether anything changed; one stat when not. Raises IndexCorrupt."""
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return False
        self._documents = _read(self._path)
        self._stamp = stamp  # from before reading: a file replaced meanwhile is read again
        return True

    def gone(self, seq: int) -> frozenset[str]:
        """Documents to hide in a generation built from the changes up to `seq`."""
        return frozenset(doc_id for doc_id, at in self._documents.items() if at > seq)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise IndexCorrupt(f"cannot read {path}: {exc.strerror}") from exc
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: Path) -> dict[str, int]:
    """Raises IndexCorrupt: a file that is there and unread must not bring documents back."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Buried).documents
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise IndexCorrupt(f"cannot read {path}: {exc.strerror}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise IndexCorrupt(f"{path} is damaged: {exc}") from exc


@contextmanager
def _only_one(index_dir: Path) -> Iterator[Path]:
    try:
        index_dir.mkdir(parents=True, exist_ok=True)
        lock = (index_dir / LOCK).open("ab")
    except OSError as exc:
        raise IndexUnwritable(f"cannot write to {index_dir}: {exc.strerror}") from exc
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield index_dir / FILE


def _replace(path: Path, documents: dict[str, int]) -> None:
    draft = path.with_suffix(".tmp")
    try:
        with draft.open("wb") as file:
            file.write(msgspec.json.encode(_Buried(documents)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as exc:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise IndexUnwritable(f"cannot write {path}: {exc.strerror}") from exc
