"""POST /batch: order, one status each, equal questions once, limits, keys, and leaving."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from api.http.batch import BatchResponse
from api.http.edge import Edge
from api.runtime.drain import Drain
from tests.http.batches import FRANCE, PERU, TEA, statuses
from tests.support.engine import DONE, Exchange, FakeEngine, delta, event, saying, sending
from tests.support.harness import QUESTION, Client, Stream, live, run_in, settings_for
from tests.support.waiting import eventually


def first_docs(body: dict[str, Any]) -> list[str]:
    return [result["response"]["sources"][0]["doc_id"] for result in body["results"]]


def echoing(every: float = 0.0):
    """Answer with the question itself."""

    async def script(exchange: Exchange) -> None:
        asked = exchange.call.json()["messages"][-1]["content"].rsplit("Question: ", 1)[1]
        await saying([asked], every=every)(exchange)

    return script


def test_batch_results_stand_in_the_order_of_the_questions(
    client: Client, engine: FakeEngine
) -> None:
    engine.script = echoing()
    answered = client.post("/batch", {"queries": [PERU, TEA, {"query": FRANCE, "top_k": 1}]})
    body = answered.json()
    assert answered.status == 200
    assert statuses(body) == [200, 200, 200]
    assert first_docs(body) == ["peru.md", "tea.txt", "france.md"]
    assert [r["response"]["answer"] for r in body["results"]] == [PERU, TEA, FRANCE]
    assert [r["error"] for r in body["results"]] == [None] * 3
    assert len(body["results"][2]["response"]["sources"]) == 1
    assert body["usage"]["prompt_tokens"] == 3 * 39
    assert body["cost_eur"] == pytest.approx(
        sum(r["response"]["cost_eur"] for r in body["results"])
    )
    assert body["request_id"] == answered.headers["x-request-id"]
    msgspec.json.decode(answered.body, type=BatchResponse)


def test_batch_each_question_has_an_id_of_its_own(client: Client, engine: FakeEngine) -> None:
    long_id = "x" * 64
    body = client.post("/batch", {"queries": [PERU, TEA]}, {"X-Request-ID": long_id}).json()
    ids = [result["response"]["request_id"] for result in body["results"]]
    assert ids == ["x" * 61 + "-0", "x" * 61 + "-1"]
    assert {call.headers["x-request-id"] for call in engine.chats} == set(ids)


def test_batch_equal_questions_are_asked_and_paid_once(client: Client, engine: FakeEngine) -> None:
    body = client.post(
        "/batch", {"queries": [FRANCE, PERU, FRANCE, {"query": FRANCE}, QUESTION | {"top_k": 1}]}
    ).json()
    assert len(engine.chats) == 3
    assert statuses(body) == [200] * 5
    first, _, second, third, other = [result["response"] for result in body["results"]]
    assert (first["answer"], first["sources"]) == (second["answer"], second["sources"])
    assert [r["cache"]["kind"] for r in (first, second, third, other)] == [
        "none", "coalesced", "coalesced", "none",
    ]  # fmt: skip
    assert (second["cost_eur"], second["usage"]["prompt_tokens"]) == (0, 0)
    assert body["usage"]["prompt_tokens"] == 3 * 39


BAD = [
    ("no", ">= 3"),
    ("x" * 513, "<= 512"),
    ({"query": FRANCE, "topk": 1}, "topk: no such field"),
    ({}, "query: required"),
    (5, "object"),
    (None, "object"),
    ([FRANCE], "object"),
    ({"query": FRANCE, "top_k": 99}, "top_k"),
    ("what\x00is", "control"),
]


def test_batch_bad_question_fails_alone(client: Client, engine: FakeEngine) -> None:
    body = client.post("/batch", {"queries": [FRANCE, *(query for query, _ in BAD)]}).json()
    assert statuses(body) == [200] + [422] * len(BAD)
    for result, (_, says) in zip(body["results"][1:], BAD, strict=True):
        assert result["error"]["code"] == "invalid"
        assert says in result["error"]["message"]
        assert result["response"] is None
    assert len(engine.chats) == 1


def test_batch_without_a_good_question_is_answered_too(client: Client) -> None:
    assert statuses(client.post("/batch", {"queries": ["no", 1]}).json()) == [422, 422]


def test_batch_engine_failing_for_one_question_leaves_the_others(
    client: Client, engine: FakeEngine
) -> None:
    async def script(exchange: Exchange) -> None:
        asked = exchange.call.json()["messages"][-1]["content"]
        if asked.endswith(PERU):
            await sending(delta("Li"), event({"error": {"message": "CUDA"}}), DONE)(exchange)
        elif asked.endswith(TEA):
            await sending(status=429)(exchange)
        else:
            await saying()(exchange)

    engine.script = script
    before = client.metric("rag_errors_total", code="engine_overloaded")
    body = client.post("/batch", {"queries": [PERU, FRANCE, TEA, PERU]}).json()
    assert statuses(body) == [502, 200, 429, 502]
    codes = [result["error"] and result["error"]["code"] for result in body["results"]]
    assert codes == ["engine_error", None, "engine_overloaded", "engine_error"]
    assert body["results"][2]["error"]["retryable"] is True
    assert body["results"][0]["error"]["usage"]["completion_tokens"] == 1
    assert len(engine.chats) == 3
    assert client.metric("rag_errors_total", code="engine_overloaded") == before + 1
    assert client.metric("rag_requests_total", endpoint="/batch", outcome="engine_error") >= 1


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"queries": []}, 422, "queries"),
        ({"queries": [FRANCE] * 33}, 422, "<= 32"),
        ({"queries": FRANCE}, 422, "array"),
        ({}, 422, "queries: required"),
        ({"queries": [FRANCE], "top_k": 1}, 422, "top_k: no such field"),
        (b"[", 400, "JSON"),
        (b'{"queries": ["\xff"]}', 400, "UTF-8"),
    ],
)
def test_batch_body_bad_is_refused_whole(
    client: Client, engine: FakeEngine, body: object, status: int, says: str
) -> None:
    answered = client.post("/batch", body)
    assert answered.status == status
    assert says in answered.error()["message"]
    assert engine.chats == []


def most_at_once(engine: FakeEngine) -> list[int]:
    """Let the engine note how many it answers at a time; the last item is the most."""
    running, most = 0, [0]

    async def script(exchange: Exchange) -> None:
        nonlocal running
        running += 1
        most.append(max(most[-1], running))
        await asyncio.sleep(0.15)
        running -= 1
        await saying()(exchange)

    engine.script = script
    return most


EIGHT = [f"What is the capital of France, part {n}?" for n in range(8)]


@pytest.mark.parametrize(("setting", "expected"), [(0, 4), (1, 1), (3, 3)])
def test_batch_runs_so_many_side_by_side(
    index_dir: Path, engine: FakeEngine, setting: int, expected: int
) -> None:
    most = most_at_once(engine)
    api = {"batch_parallelism": setting}
    with live(settings_for(engine.url, index_dir, api=api)) as (client, _):
        assert statuses(client.post("/batch", {"queries": EIGHT}).json()) == [200] * 8
    assert most[-1] == expected


def test_batch_waits_behind_people(index_dir: Path, engine: FakeEngine) -> None:
    narrow = {"max_concurrent": 1}
    with live(settings_for(engine.url, index_dir, engine=narrow)) as (client, app):

        async def script(exchange: Exchange) -> None:
            async with asyncio.timeout(20):
                # Polled: the queue belongs to the server's loop.
                while len(engine.chats) == 1 and app.service.queue.waiting < 4:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await saying()(exchange)

        engine.script = script
        batch = threading.Thread(target=client.post, args=("/batch", {"queries": EIGHT[:4]}))
        batch.start()
        eventually(lambda: app.service.queue.waiting == 3)
        client.post("/query", {"query": TEA})
        batch.join(20)
    asked = [call.json()["messages"][-1]["content"] for call in engine.chats]
    assert [question.endswith(TEA) for question in asked] == [False, True, False, False, False]


def test_batch_client_gone_stops_all_of_it(client: Client, app: Edge, engine: FakeEngine) -> None:
    engine.script = saying(["a"] * 400, every=0.05)
    with Stream(client, "/batch", {"queries": EIGHT}):
        eventually(lambda: len(engine.chats) == 4)
    eventually(lambda: all(call.gone_at for call in engine.chats), within_s=3)
    eventually(lambda: app.service.queue.in_use == 0)
    assert len(engine.chats) == 4
    eventually(
        lambda: client.metric("rag_requests_total", endpoint="/batch", outcome="client_gone") >= 1
    )


def test_batch_drained_tells_what_was_answered(index_dir: Path, engine: FakeEngine) -> None:
    async def script(exchange: Exchange) -> None:
        is_quick = exchange.call.json()["messages"][-1]["content"].endswith(FRANCE)
        await saying(every=0 if is_quick else 5)(exchange)

    engine.script = script
    found: list[dict] = []
    with live(settings_for(engine.url, index_dir)) as (client, app):
        body = {"queries": [FRANCE, PERU, TEA, FRANCE]}
        asking = threading.Thread(target=lambda: found.append(client.post("/batch", body).json()))
        asking.start()
        eventually(lambda: len(engine.chats) == 3)
        eventually(lambda: app.service.queue.in_use == 2)
        drain: Drain = app.service.drain
        run_in(client, drain.finish(0.1, is_hurried=lambda: False))
        asking.join(20)
        assert client.post("/batch", body).error()["code"] == "shutting_down"
    assert statuses(found[0]) == [200, 503, 503, 200]
    assert found[0]["results"][1]["error"]["code"] == "shutting_down"


def test_batch_is_answered_from_metrics_of_its_own(client: Client) -> None:
    count = lambda: client.metric("rag_query_latency_seconds_count", endpoint="/batch")  # noqa: E731
    before = count()
    client.post("/batch", {"queries": [FRANCE, PERU]})
    assert count() == before + 2


def test_batch_follow_up_in_a_question_is_condensed(client: Client, engine: FakeEngine) -> None:
    async def script(exchange: Exchange) -> None:
        is_condensing = "Standalone" in exchange.call.json()["messages"][-1]["content"]
        await saying(["Where is Lima, Peru?"] if is_condensing else ["In Peru."])(exchange)

    engine.script = script
    history = [{"role": "user", "content": "Tell me of Lima in Peru"}]
    body = client.post("/batch", {"queries": [{"query": "Where is it?", "history": history}]})
    (result,) = body.json()["results"]
    assert result["response"]["standalone_query"] == "Where is Lima, Peru?"
