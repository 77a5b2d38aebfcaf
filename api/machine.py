"""How many CPU cores this process may use, and how many of them models get."""

import os
from pathlib import Path


def available_cores() -> int:
    """Return the cores this process may use: affinity, cut by a container's CPU quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, _cgroup_quota(Path("/sys/fs/cgroup/cpu.max"))))


def model_threads(cores: int) -> int:
    """Return compute threads for a model beside the event loop, which keeps one core.

    On two cores two spinning threads were ten times slower than one as soon as anything else ran.
    """
    return max(1, cores - 1)


def _cgroup_quota(path: Path) -> int:
    """Return the cgroup v2 quota in whole cores, rounded up; a large number where none is set."""
    try:
        quota, period = path.read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):
        return 1 << 16
