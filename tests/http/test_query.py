"""POST /query, /query/stream and /search against a live server and a scripted engine."""

import pytest

from tests.support.engine import DONE, FakeEngine, delta, saying, sending, usage
from tests.support.harness import QUESTION, Client, frames, text_of

FACTS = {
    "cost_eur",
    "finish_reason", "usage", "latency_ms", "degraded", "request_id", "engine", "model",
    "index_generation", "cache", "dropped_markers",
}  # fmt: skip
STAGES = {
    "auth", "embed", "dense", "sparse", "fuse", "prompt", "queue", "first_token", "generation",
    "total",
}  # fmt: skip


def test_query_known_topic_answers_with_sources_and_facts(client: Client) -> None:
    answered = client.post("/query", QUESTION)
    body = answered.json()
    assert answered.status == 200
    assert body["answer"] == "Paris is it."
    assert body["sources"][0]["doc_id"] == "france.md"
    assert [source["n"] for source in body["sources"]] == list(range(1, len(body["sources"]) + 1))
    assert set(body) == FACTS | {"answer", "sources", "citations"}
    assert set(body["latency_ms"]) == STAGES
    assert body["usage"] == {"prompt_tokens": 39, "completion_tokens": 3, "estimated": False}
    assert body["finish_reason"] == "stop"
    assert body["degraded"] == []


def test_query_source_offsets_cut_its_text_from_the_document(client: Client) -> None:
    from tests.support.pages import PAGES

    for source in client.post("/query", QUESTION).json()["sources"]:
        page = PAGES[source["doc_id"]]
        assert page[source["start"] : source["end"]] == source["text"]


def test_stream_known_topic_sends_sources_tokens_done_in_order(client: Client) -> None:
    answered = client.post("/query/stream", QUESTION)
    stream = frames(answered.body)
    assert answered.status == 200
    assert answered.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answered.headers["x-accel-buffering"] == "no"
    assert answered.headers["cache-control"] == "no-cache, no-transform"
    tokens = ["token"] * 3
    assert [frame.event for frame in stream] == ["sources", *tokens, "citation", "done"]
    assert [frame.id for frame in stream] == [1, 2, 3, 4, 5, 6]
    assert set(stream[-1].data) == FACTS


def test_stream_and_query_same_question_give_the_same_answer(client: Client) -> None:
    plain = client.post("/query", QUESTION).json()
    stream = frames(client.post("/query/stream", QUESTION).body)
    assert text_of(stream) == plain["answer"]
    assert stream[0].data["sources"] == plain["sources"]
    assert [frame.data for frame in stream if frame.event == "citation"] == plain["citations"]
    assert stream[-1].data["usage"] == plain["usage"]


def test_query_defaults_reach_the_engine(client: Client, engine: FakeEngine) -> None:
    client.post("/query", QUESTION)
    sent = engine.chats[0].json()
    assert sent["model"] == "Qwen/Qwen2.5-3B-Instruct"
    assert (sent["max_tokens"], sent["temperature"]) == (80, 0.1)
    assert sent["stream_options"] == {"include_usage": True}


def test_query_sampling_of_the_request_reaches_the_engine(
    client: Client, engine: FakeEngine
) -> None:
    client.post("/query", QUESTION | {"max_tokens": 7, "temperature": 0})
    sent = engine.chats[0].json()
    assert (sent["max_tokens"], sent["temperature"]) == (7, 0.0)


def test_query_history_stands_between_instructions_and_question(
    client: Client, engine: FakeEngine
) -> None:
    history = [
        {"role": "user", "content": "Tell me about France."},
        {"role": "assistant", "content": "Gladly."},
    ]
    client.post("/query", QUESTION | {"history": history})
    messages = engine.chats[0].json()["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[1:3] == history


@pytest.mark.parametrize("top_k", [1, 2, 20])
def test_query_top_k_bounds_the_sources(client: Client, top_k: int) -> None:
    sources = client.post("/query", QUESTION | {"top_k": top_k}).json()["sources"]
    assert 1 <= len(sources) <= top_k


def test_query_nothing_matches_answers_without_asking_the_engine(
    client: Client, engine: FakeEngine
) -> None:
    body = client.post("/query", {"query": "zxqv wvutsr qqqq"}).json()
    assert body["sources"] == []
    assert body["finish_reason"] == "no_passages"
    assert "know" in body["answer"]
    assert engine.chats == []


def test_query_usage_never_sent_is_estimated(client: Client, engine: FakeEngine) -> None:
    engine.script = sending(delta("Paris"), delta("", "stop"), DONE)
    counted = client.post("/query", QUESTION).json()["usage"]
    assert counted["estimated"] is True
    assert counted["completion_tokens"] == 1
    assert counted["prompt_tokens"] > 50


def test_query_line_separators_in_the_answer_stay_whole(client: Client, engine: FakeEngine) -> None:
    engine.script = saying(["a\u2028b", "\u2029c\x85", "\r\ndata: x\n\n"])
    stream = client.post("/query/stream", QUESTION)
    assert text_of(frames(stream.body)) == "a\u2028b\u2029c\x85\r\ndata: x\n\n"
    assert "\u2028" not in stream.body.decode()


def test_query_finish_length_is_told(client: Client, engine: FakeEngine) -> None:
    engine.script = saying(finish_reason="length")
    assert client.post("/query", QUESTION).json()["finish_reason"] == "length"


def test_query_stop_sequence_of_tgi_is_stop(client: Client, engine: FakeEngine) -> None:
    engine.script = sending(delta("Paris"), delta("", "stop_sequence"), usage(1, 1), DONE)
    assert client.post("/query", QUESTION).json()["finish_reason"] == "stop"


def test_search_returns_ranked_hits_with_offsets(client: Client, engine: FakeEngine) -> None:
    body = client.post("/search", {"query": "capital of Peru", "top_k": 2}).json()
    assert [hit["rank"] for hit in body["hits"]] == [1, 2]
    assert body["hits"][0]["doc_id"] == "peru.md"
    assert set(body["hits"][0]) == {
        "rank", "scores", "doc_id", "passage_id", "title", "text", "start", "end", "metadata",
    }  # fmt: skip
    assert body["hits"][0]["scores"]["fused"] >= body["hits"][1]["scores"]["fused"]
    assert engine.chats == []


def test_search_nothing_matches_returns_no_hits(client: Client) -> None:
    assert client.post("/search", {"query": "zxqv wvutsr qqqq"}).json()["hits"] == []


def test_query_many_at_once_answers_each_question(client: Client, engine: FakeEngine) -> None:
    from concurrent.futures import ThreadPoolExecutor

    expected = {
        "What is the capital of Peru?": "peru.md",
        "What is the capital of France?": "france.md",
        "How is green tea brewed?": "tea.txt",
    }
    with ThreadPoolExecutor(9) as pool:
        asked = list(expected) * 5
        answers = list(pool.map(lambda query: client.post("/query", {"query": query}), asked))
    best = [answer.json()["sources"][0]["doc_id"] for answer in answers]
    assert best == [expected[query] for query in asked]
