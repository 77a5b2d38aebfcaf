"""The cache on the answer path: hits, misses, partitions, deletion, feedback."""

import time

import pytest

from api.answering.request import CacheControl
from tests.support.engine import FakeEngine, delta, saying, sending
from tests.support.harness import (
    QUESTION,
    Client,
    frames,
    text_of,
)


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
