"""Which parser processes of this one run."""

import os
from pathlib import Path

from tests.support.waiting import eventually

DEADLINE_S = 120


def children() -> set[int]:
    """Parser processes of this one."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes()
        except (OSError, ValueError, IndexError):
            continue
        if parent == os.getpid() and b"retrieval.reading.parsing.worker" in command:
            found.add(int(entry.name))
    return found


def until(n_children: int) -> set[int]:
    """Wait until so many parser processes run; return their ids."""
    eventually(lambda: len(children()) == n_children, within_s=DEADLINE_S)
    return children()


def only_child() -> int:
    return until(1).pop()
