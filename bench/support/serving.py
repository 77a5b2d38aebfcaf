"""A server of ours in a process of its own, as `ragrelay serve` starts it, over a real index."""

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

from bench.support.processes import Process, free_port, until

PAGE = (
    "# Green tea\n\nGreen tea is brewed with water of eighty degrees for two minutes. Hotter water "
    "takes the sweetness out of it. Leaves that are used again want half a minute more."
)
BUILT = "BENCH_PAGE_INDEX"
"""In the environment of a bench: where an index of PAGE lies that another process has built."""

ALONE = {
    "CACHE_ENABLED": "false",
    "DATABASE_URL": "off",
    "LIMIT_ENABLED": "false",
}
LIMITED = {
    "LIMIT_ENABLED": "true",
    "LIMIT_QUERY_PER_MINUTE": "1000000",
    "LIMIT_ADMIN_PER_MINUTE": "1000000",
    "CB_COST_LIMIT_EUR": "1000000",
    "ENGINE_MAX_CONCURRENT": "4096",
}
"""Limits and ledger count each answer, and refuse none."""
RAGRELAY = [sys.executable, "-c", "from api.cli.main import main; main()"]


@contextmanager
def page_index() -> Iterator[Path]:
    """Yield the folder of an index of PAGE."""
    if BUILT in os.environ:
        yield Path(os.environ[BUILT])
        return
    with TemporaryDirectory() as folder:
        index_page(Path(folder) / "index")
        yield Path(folder) / "index"


def index_page(index_dir: Path) -> None:
    # Imported here: most of those that load a server need no torch beside them.
    from retrieval.build.build import build_index
    from retrieval.models.embedder import load_embedder
    from retrieval.models.resolve import MINILM

    with TemporaryDirectory() as folder:
        page = Path(folder) / "page.md"
        page.write_text(PAGE)
        embedder = load_embedder(MINILM, threads=1)
        build_index(index_dir, [page], embedder)
        embedder.close()


@contextmanager
def served(
    index_dir: Path, *, ready: Sequence[str] = ("models", "index", "engine"), **environ: str
) -> Iterator[Process]:
    """Serve without cache, log and limits unless `environ` says otherwise.

    Yields it once the parts named in `ready` are. Raises RuntimeError where it does not start.
    """
    port = free_port()
    own = {"API_PORT": str(port), "RETRIEVAL_INDEX_DIR": str(index_dir)}
    server = subprocess.Popen(
        [*RAGRELAY, "serve"],
        env=os.environ | ALONE | environ | own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    process = Process(port, server.pid)
    try:
        until(lambda: server.poll() is not None or _is_ready(process.url, ready), within_s=120)
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}")
        yield process
    finally:
        server.terminate()
        server.wait(30)


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
