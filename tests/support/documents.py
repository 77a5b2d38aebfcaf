"""What tests of documents over HTTP share: servers over a library, keys of two tenants, jobs."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from api.admission.key_store import KeyStore
from api.admission.keys import KeySpec
from api.http.edge import Edge
from api.settings.types import Secret
from api.stores.breaker import Breaker
from api.stores.calls import RedisCalls
from tests.support.engine import FakeEngine
from tests.support.harness import Answered, Client, frames, live, settings_for
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

ADMIN = {"X-API-Key": "canary-key-0123456789-and-more"}
FAST = {"window_seconds": 0.05}


@contextmanager
def served(engine: FakeEngine, index_dir: Path, **groups: dict) -> Iterator[tuple[Client, Edge]]:
    """A server over an index that may not be there yet, its model loaded."""
    groups = {"ingest": FAST} | groups
    with live(settings_for(engine.url, index_dir, **groups), wait=False) as (client, app):
        eventually(lambda: app.service.loader.embedder is not None, within_s=60)
        if app.service.cache is not None:
            eventually(lambda: app.service.loader.cache_embedder is not None, within_s=60)
        yield client, app


def locked(ledger: RedisServer) -> dict[str, dict]:
    """Settings of a server that asks for keys of this ledger."""
    return {
        "auth": {"enabled": True, "api_key": Secret(ADMIN["X-API-Key"])},
        "ledger": {"redis_url": Secret(ledger.url)},
    }


def new_key(ledger: RedisServer, **spec: Any) -> dict[str, str]:
    """Make a key; return the header that carries it."""

    async def make() -> str:
        redis = ledger.client()
        try:
            store = KeyStore(RedisCalls(redis, Breaker("keys"), timeout_s=5))
            return (await store.create(KeySpec(name="test", **spec))).key.text()
        finally:
            await redis.aclose()

    return {"X-API-Key": asyncio.run(make())}


def add(client: Client, *documents: dict, headers: dict[str, str] | None = None) -> dict:
    """Add documents and wait until they are indexed; return the job."""
    answered = client.post("/documents", {"documents": list(documents)}, headers or {})
    assert answered.status == 202, answered.body
    return ended(client, answered, headers)


def ended(client: Client, answered: Answered, headers: dict[str, str] | None = None) -> dict:
    """The job that was answered, once it has ended."""
    path = answered.headers["location"]
    job: dict = {}

    def is_over() -> bool:
        job.update(client.get(path, headers or {}).json()["job"])
        return job["finished_at"] is not None

    eventually(is_over, within_s=60)
    return job


def form(*parts: tuple[str, str | None, bytes], boundary: str = "xXx") -> tuple[bytes, dict]:
    """(body, headers) of multipart/form-data from (name, filename, content)."""
    body = b""
    for name, filename, content in parts:
        head = f'Content-Disposition: form-data; name="{name}"'
        if filename is not None:
            head += f'; filename="{filename}"'
        body += f"--{boundary}\r\n{head}\r\n\r\n".encode() + content + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def searched(client: Client, query: str, headers: dict | None = None, **more: Any) -> list[str]:
    answered = client.post("/search", {"query": query, "top_k": 50, **more}, headers or {})
    assert answered.status == 200, answered.body
    return [hit["doc_id"] for hit in answered.json()["hits"]]


def outcomes(job: dict) -> list[tuple[str, str]]:
    return [(one["doc_id"], one["status"]) for one in job["documents"]]


def events_of(raw: bytes) -> list[dict]:
    return [frame.data["job"] for frame in frames(raw)]


REPO = Path(__file__).parents[2]


@contextmanager
def alone(engine: FakeEngine, index_dir: Path) -> Iterator[tuple[Client, subprocess.Popen[str]]]:
    """A server in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.serve_alone", str(index_dir), engine.url],
        cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    try:
        yield Client(int(process.stdout.readline())), process
    finally:
        process.kill()
        process.wait(20)
        process.stdin.close()
        process.stdout.close()
