"""A server of ours over one small page, in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from retrieval.build.build import build_index
from retrieval.models.embedder import load_embedder
from retrieval.models.resolve import MINILM
from tests.support.harness import Client, eventually
from tests.support.ports import free_port

ALONE = {
    "CACHE_ENABLED": "false",
    "DATABASE_URL": "off",
    "LIMIT_ENABLED": "false",
}


@contextmanager
def serving(text: str, **environ: str) -> Iterator[str]:
    """Serve without cache, log and limits unless `environ` says otherwise; yields the address."""
    with TemporaryDirectory() as folder:
        page = Path(folder) / "page.md"
        page.write_text(text)
        embedder = load_embedder(MINILM, threads=1)
        build_index(Path(folder) / "index", [page], embedder)
        embedder.close()
        port = free_port()
        own = {"API_PORT": str(port), "RETRIEVAL_INDEX_DIR": f"{folder}/index"}
        serve = [sys.executable, "-c", "from api.cli.main import main; main()", "serve"]
        quiet = subprocess.DEVNULL
        server = subprocess.Popen(
            serve, env=os.environ | ALONE | environ | own, stdout=quiet, stderr=quiet
        )
        try:
            eventually(lambda: _is_ready(port), within_s=120)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)


def _is_ready(port: int) -> bool:
    try:
        checks = Client(port).get("/health/ready").json()["checks"]
    except OSError:
        return False
    return all(checks[name]["status"] == "ok" for name in ("models", "index", "engine"))
