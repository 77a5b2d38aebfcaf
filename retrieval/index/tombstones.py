"""Documents deleted since a generation was built: hidden at once, in every process that serves.

DIR/tombstones.json is replaced as a whole, so a reader or a crash sees the old or the new one.
A tombstone (doc_id, seq) hides the document in generations built from changes before `seq`.
"""

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from retrieval.index.disk import holding, replace_whole
from retrieval.types import IndexCorrupt

FILE = "tombstones.json"
LOCK = ".tombstones.lock"


class _Buried(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    documents: dict[str, int]
    """doc_id → the change that deleted it last."""


def bury(index_dir: str | Path, doc_ids: Iterable[str], seq: int) -> None:
    """Hide the documents in all generations before change `seq`; on disk once it returns.

    Raises IndexUnwritable, and IndexCorrupt where the file that is there cannot be read.
    """
    path = Path(index_dir) / FILE
    with holding(path.with_name(LOCK)):
        documents = _read(path)
        for doc_id in doc_ids:
            documents[doc_id] = max(seq, documents.get(doc_id, 0))
        replace_whole(path, msgspec.json.encode(_Buried(documents)))


def forget(index_dir: str | Path, *, oldest: int) -> None:
    """Drop the tombstones that no generation needs, the oldest kept being of change `oldest`."""
    path = Path(index_dir) / FILE
    if not path.exists():
        return
    with holding(path.with_name(LOCK)):
        documents = _read(path)
        needed = {doc_id: seq for doc_id, seq in documents.items() if seq > oldest}
        if needed != documents:
            replace_whole(path, msgspec.json.encode(_Buried(needed)))


class Tombstones:
    """The tombstones as they were at the last `refresh`."""

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
