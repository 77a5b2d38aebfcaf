"""The command line as its users run it: a process of its own, with an environment of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.engine import FakeEngine
from tests.support.harness import Client
from tests.support.ports import free_port
from tests.support.waiting import eventually

RAGRELAY = [sys.executable, "-c", "from api.cli.main import main; main()"]


def clean_environ(**variables: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return kept | variables


def run(
    *arguments: str, input: str | None = None, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run `ragrelay …` to its end."""
    return subprocess.run(
        [*RAGRELAY, *arguments],
        env=clean_environ(**variables),
        input=input,
        capture_output=True,
        text=True,
        timeout=120,
    )


@contextmanager
def started(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `ragrelay …` with pipes for all it reads and writes; kill it when the block ends."""
    process = subprocess.Popen(
        [*RAGRELAY, *arguments],
        env=clean_environ(PYTHONUNBUFFERED="1", **variables),
        preexec_fn=_hear_interrupts,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _hear_interrupts() -> None:
    """A shell's background job, as this test-suite may be, starts with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def serving(
    engine: FakeEngine, index_dir: Path, **variables: str
) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
    """Run `ragrelay serve` until it is ready; kill what is left of it at the end."""
    port = free_port()
    nowhere = "redis://127.0.0.1:1/0"  # not a name that some resolvers take seconds over
    environ = clean_environ(
        ENGINE="llamacpp",
        ENGINE_URL=engine.url,
        RETRIEVAL_INDEX_DIR=str(index_dir),
        API_PORT=str(port),
        CACHE_ENABLED="false",
        **{"CB_REDIS_URL": nowhere, "CACHE_REDIS_URL": nowhere, **variables},
    )
    process = subprocess.Popen([*RAGRELAY, "serve"], env=environ, stderr=subprocess.DEVNULL)
    client = Client(port)
    try:
        eventually(lambda: is_ready(client), within_s=60)
        yield process, client
    finally:
        process.kill()
        process.wait()


def is_ready(client: Client) -> bool:
    """Return whether a server answers and its parts are ready."""
    try:
        return client.get("/health/ready").status == 200
    except OSError:
        return False
