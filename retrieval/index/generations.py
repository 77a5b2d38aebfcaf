"""Write a new generation beside the one that serves, then swap the pointer to it atomically.

One process writes at a time. A generation on disk never changes, so readers take no lock.
"""

import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from retrieval.index.disk import holding, replace_whole, sync
from retrieval.index.index import (
    GENERATIONS,
    POINTER,
    current_generation,
    list_generations,
    open_generation,
)
from retrieval.types import IndexCorrupt, IndexMissing, IndexUnwritable

LOCK = ".lock"
BUILDING = ".building-"


class _Held(threading.local):
    """Index directories that this thread has locked.

    A flock belongs to an open file: the same thread's second one would be refused by its first.
    """

    def __init__(self) -> None:
        self.directories: set[Path] = set()


_held = _Held()


@contextmanager
def only_writer(index_dir: Path) -> Iterator[None]:
    """Hold the writer's lock. Raises IndexBusy while another process or thread has it.

    The holder's death frees it; a thread that has the lock may take it again within.
    """
    directory = index_dir.absolute()
    if directory in _held.directories:
        yield
        return
    try:
        (directory / GENERATIONS).mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise IndexUnwritable(f"cannot write to {index_dir}: {exc.strerror}") from exc
    busy = f"another process is writing the index in {index_dir}; try again when it is done"
    with holding(directory / LOCK, busy=busy):
        _held.directories.add(directory)
        try:
            yield
        finally:
            _held.directories.discard(directory)


@contextmanager
def new_generation(index_dir: Path) -> Iterator[tuple[str, Path]]:
    """(id, empty directory to fill); made current if the body succeeds, else removed.

    Raises IndexUnwritable when the disk is full or does not allow it.
    """
    generation = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    building = index_dir / GENERATIONS / f"{BUILDING}{generation}"
    try:
        try:
            building.mkdir()
            yield generation, building
            # In this order: a name must not reach the disk before what it names.
            _sync_tree(building)
            os.rename(building, index_dir / GENERATIONS / generation)
            sync(index_dir / GENERATIONS)
        except OSError as exc:
            raise IndexUnwritable(
                f"cannot write a new index in {index_dir}: {exc.strerror or exc};"
                " the one before it stays"
            ) from exc
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    point_to(index_dir, generation)


def point_to(index_dir: Path, generation: str) -> None:
    """Make `generation` the one that serves: a reader, or a crash, sees the old name or the new."""
    replace_whole(index_dir / POINTER, f"{generation}\n".encode("ascii"))


def prune(index_dir: Path, keep: set[str]) -> None:
    """Remove all generations but those of `keep`, and what killed builds left.

    A process that has a removed one open goes on reading it: its files live until unmapped.
    """
    for entry in (index_dir / GENERATIONS).iterdir():
        if entry.name not in keep:
            shutil.rmtree(entry, ignore_errors=True)


def rollback(index_dir: str | Path, generation: str | None = None) -> str:
    """Make `generation`, or the newest one that is not current, serve again; returns its id.

    Raises IndexMissing when there is none, IndexCorrupt when it is damaged, IndexBusy.
    """
    index_dir = Path(index_dir)
    with only_writer(index_dir):
        try:
            current = current_generation(index_dir)
        except IndexCorrupt:
            current = None
        names = [manifest.id for manifest in list_generations(index_dir)]
        target = generation or next((name for name in names if name != current), None)
        if target is None or target not in names:
            raise IndexMissing(f"no generation {target or 'to go back to'} in {index_dir}")
        open_generation(index_dir, target).close()  # raises where it is damaged
        point_to(index_dir, target)
    return target


def _sync_tree(directory: Path) -> None:
    for path in directory.rglob("*"):
        sync(path)
    sync(directory)
