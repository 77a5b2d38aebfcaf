"""Run as a script by a test: a server over INDEX_DIR in a process of its own; prints its port.

serve_alone.py INDEX_DIR ENGINE_URL
"""

import sys
from pathlib import Path

from tests.support.harness import live, settings_for
from tests.support.waiting import eventually


def main(index_dir: str, engine_url: str) -> None:
    settings = settings_for(engine_url, Path(index_dir), ingest={"window_seconds": 0.05})
    with live(settings, wait=False) as (client, app):
        eventually(lambda: app.service.loader.embedder is not None, within_s=60)
        print(client.port, flush=True)
        sys.stdin.read()


main(*sys.argv[1:])
