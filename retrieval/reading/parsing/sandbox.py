"""Confine a parser process: it may compute within its limits, import Python code, and answer.

The kernel limits memory, files and CPU time and, where it allows that, gives it a network without
an interface. An audit hook refuses sockets, programs and files whatever the kernel allows: it stops
a parser that a file has tricked into using them, not native code that was taken over.
"""

import contextlib
import ctypes
import os
import resource
import sys
import time

from retrieval.reading.parsing.wire import ParseLimits

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
"""https://man7.org/linux/man-pages/man2/unshare.2.html; os.unshare is Python 3.12's."""
_REFUSED = (
    "ctypes.",
    "fcntl.",
    "os.",
    "pty.",
    "shutil.",
    "signal.",
    "socket.",
    "subprocess.",
    "syslog.",
    "tempfile.",
    "urllib.",
)
_ALLOWED = ("os.listdir", "os.scandir")
"""Python's importer lists its directories."""
_CODE = (".py", ".pyc")


def confine(limits: ParseLimits) -> None:
    """For the rest of this process; raises OSError or ValueError where a limit cannot be set."""
    # Where memory runs out, the kernel ends this process before the server.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    _leave_network()
    for kind, most in (
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CORE, 0),  # a core dump would leave the document on disk
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_NPROC, 0),  # not held to for root, whom the hook below stops
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    roots = tuple(os.path.join(entry, "") for entry in sys.path if os.path.isabs(entry))

    def refuse(event: str, args: tuple[object, ...]) -> None:
        if event == "open":
            if not _is_code(args, roots):
                raise PermissionError(f"a parser may not open {args[0]!r}")
        elif event.startswith(_REFUSED) and event not in _ALLOWED:
            raise PermissionError(f"a parser may not use {event}")

    sys.addaudithook(refuse)


def allow_cpu(seconds: int) -> None:
    """From now on; the kernel ends a process that goes on for longer."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    # The limit counts from the start of the process, which has read other files before. Only the
    # soft one is set: a hard one could not be raised for the next file.
    most = int(time.process_time()) + 1 + seconds
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (most, hard))


def _leave_network() -> None:
    # Root keeps its user namespace: in a new one it could not read files of other users.
    flags = _CLONE_NEWNET | (_CLONE_NEWUSER if os.geteuid() else 0)
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).unshare(flags)


def _is_code(args: tuple[object, ...], roots: tuple[str, ...]) -> bool:
    path, _, flags = args
    if not isinstance(path, str) or not isinstance(flags, int):
        return False
    writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    return not writes and path.endswith(_CODE) and os.path.abspath(path).startswith(roots)
