"""The cache's store on the answer path: replicas, a new generation, a store in trouble."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from tests.support.caching import caching
from tests.support.engine import FakeEngine
from tests.support.harness import QUESTION
from tests.support.servers import RedisServer
from tests.support.waiting import eventually


def test_two_replicas_share_what_was_answered(
    index_dir: Path, engine: FakeEngine, valkey: RedisServer
) -> None:
    with caching(engine, index_dir, valkey) as (one, _):
        one.request("DELETE", "/cache")
        with caching(engine, index_dir, valkey) as (other, _):
            one.post("/query", QUESTION)
            eventually(lambda: other.metric("rag_cache_size") >= 1)
            assert other.post("/query", QUESTION).json()["cache"]["kind"] == "exact"
            assert len(engine.chats) == 1
            other.request("DELETE", "/cache")
            eventually(lambda: one.metric("rag_cache_size") == 0)


def test_new_generation_leaves_old_answers_behind(
    tmp_path: Path, engine: FakeEngine, valkey: RedisServer
) -> None:
    from retrieval.build.build import build_index
    from retrieval.models.embedder import load_embedder

    embedder = load_embedder("sentence-transformers/all-MiniLM-L6-v2", threads=1)
    page = tmp_path / "page.md"
    page.write_text("# France\n\nParis is the capital of France.")
    build_index(tmp_path / "index", [page], embedder)
    with caching(engine, tmp_path / "index", valkey) as (client, app):
        client.post("/query", QUESTION)
        assert client.post("/query", QUESTION).json()["cache"]["kind"] == "exact"
        old = app.service.loader.index.generation
        page.write_text("# France\n\nLyon is the capital of France now.")
        build_index(tmp_path / "index", [page], embedder)
        eventually(lambda: app.service.loader.index.generation != old)
        answered = client.post("/query", QUESTION).json()
        assert answered["cache"]["kind"] == "none"
        assert "Lyon" in answered["sources"][0]["text"]
    embedder.close()


def test_deadline_holds_while_the_cache_reads_the_question(
    engine: FakeEngine, index_dir: Path, valkey: RedisServer
) -> None:
    with caching(engine, index_dir, valkey, api={"deadline_seconds": 0.5}) as (client, app):
        blocks, done = threading.Event(), threading.Event()
        owner = app.service.loader.cache_embedder._owner

        def block() -> None:
            blocks.set()
            done.wait(20)

        blocker = threading.Thread(target=owner.call, args=[block])
        blocker.start()
        assert blocks.wait(20)
        try:
            answered = client.post("/query", {"query": "Which tea is brewed the longest?"})
            assert blocker.is_alive(), "answered after the model, not at the deadline"
        finally:
            done.set()
            blocker.join()
        assert (answered.status, answered.json()["error"]["code"]) == (504, "deadline")
        assert engine.chats == []


@pytest.mark.parametrize("trouble", ["killed", "frozen", "full"])
def test_redis_in_trouble_fails_no_request(
    index_dir: Path, engine: FakeEngine, ledger_server: RedisServer, trouble: str
) -> None:
    valkey = ledger_server
    with caching(engine, index_dir, valkey) as (client, _):
        client.post("/query", QUESTION)
        stop, statuses = threading.Event(), []

        def load() -> None:
            n = 0
            while not stop.is_set():
                n += 1
                body = {"query": f"What is the capital of France number {n % 7}?"}
                statuses.append(client.post("/query", body if n % 2 else QUESTION).status)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        if trouble == "killed":
            valkey.kill()
        elif trouble == "frozen":
            valkey.freeze()
        else:
            fill(valkey)
        time.sleep(1.5)
        assert client.post("/query", QUESTION).json()["cache"]["kind"] == "exact"
        if trouble == "killed":
            assert client.request("DELETE", "/cache").status == 503
            valkey.start()
        elif trouble == "frozen":
            valkey.thaw()
        time.sleep(1.0)
        stop.set()
        for thread in threads:
            thread.join(20)
        assert len(statuses) > 50
        assert set(statuses) == {200}


def fill(server: RedisServer) -> None:
    """Set maxmemory below what is used, without eviction: every write is refused."""

    async def main() -> None:
        async with server.client() as redis:
            await redis.config_set("maxmemory-policy", "noeviction")
            await redis.config_set("maxmemory", "1")

    asyncio.run(main())
