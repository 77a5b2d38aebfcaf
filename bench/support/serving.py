"""A server of ours in a process of its own, as `ragrelay serve` starts it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import HTTPError
from urllib.request import urlopen

from bench.support.processes import free_port, until
from retrieval.build.build import build_index
from retrieval.models.embedder import load_embedder
from retrieval.models.resolve import MINILM

ALONE = {
    "CACHE_ENABLED": "false",
    "DATABASE_URL": "off",
    "LIMIT_ENABLED": "false",
}
RAGRELAY = [sys.executable, "-c", "from api.cli.main import main; main()"]


def index_page(index_dir: Path, text: str) -> None:
    """Build an index of one page."""
    with TemporaryDirectory() as folder:
        page = Path(folder) / "page.md"
        page.write_text(text)
        embedder = load_embedder(MINILM, threads=1)
        build_index(index_dir, [page], embedder)
        embedder.close()


@contextmanager
def served(
    index_dir: Path, *, ready: Sequence[str] = ("models", "index", "engine"), **environ: str
) -> Iterator[tuple[str, int]]:
    """Serve without cache, log and limits unless `environ` says otherwise.

    Yields (address, process id) once the parts named in `ready` are.
    """
    port = free_port()
    own = {"API_PORT": str(port), "RETRIEVAL_INDEX_DIR": str(index_dir)}
    server = subprocess.Popen(
        [*RAGRELAY, "serve"],
        env=os.environ | ALONE | environ | own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _is_ready(url, ready), within_s=120)
        yield url, server.pid
    finally:
        server.terminate()
        server.wait(30)


@contextmanager
def serving(text: str, **environ: str) -> Iterator[str]:
    """Serve an index of one page; yields the address."""
    with TemporaryDirectory() as folder:
        index_dir = Path(folder) / "index"
        index_page(index_dir, text)
        with served(index_dir, **environ) as (url, _):
            yield url


def _is_ready(url: str, parts: Sequence[str]) -> bool:
    try:
        try:
            response = urlopen(f"{url}/health/ready")
        except HTTPError as exc:
            response = exc  # 503: its body says which part is not ready
        with response:
            checks = json.load(response)["checks"]
    except OSError:
        return False
    return all(checks[part]["status"] == "ok" for part in parts)
