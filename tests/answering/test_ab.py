"""POST /query/ab: one question answered with every variant."""

from pathlib import Path

from tests.answering.experimenting import TWO, running
from tests.support.engine import Exchange, FakeEngine, saying, sending
from tests.support.harness import (
    QUESTION,
    Client,
)


def test_ab_answers_with_every_variant_each_priced_and_named(
    experiment_file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    with running(experiment_file, engine, index_dir) as client:
        answered = client.post("/query/ab", QUESTION, {"X-Request-ID": "x" * 64})
        body = answered.json()
        assert answered.status == 200
        assert (body["experiment"], body["request_id"]) == ("shorter", "x" * 64)
        assert [(v["variant"], v["status"], v["error"]) for v in body["variants"]] == [
            ("a", 200, None), ("b", 200, None),
        ]  # fmt: skip
        ids = [v["response"]["request_id"] for v in body["variants"]]
        assert ids == ["x" * 61 + "-a", "x" * 61 + "-b"]
        assert all(v["response"]["cost_eur"] > 0 for v in body["variants"])
        assert sorted(call.json()["max_tokens"] for call in engine.chats) == [9, 80]


def test_ab_variant_that_fails_leaves_the_other(
    experiment_file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    async def script(exchange: Exchange) -> None:
        failing = exchange.call.json()["max_tokens"] == 9
        await (sending(b"no", status=500) if failing else saying())(exchange)

    engine.script = script
    with running(experiment_file, engine, index_dir) as client:
        a, b = client.post("/query/ab", QUESTION).json()["variants"]
        assert (a["status"], b["status"]) == (200, 502)
        assert (b["response"], b["error"]["code"]) == (None, "engine_error")
        counted = {"variant": "b", "outcome": "engine_error"}
        assert client.metric("rag_experiment_answers_total", **counted) == 1


def test_variant_names_its_engine_and_no_other_takes_over(
    experiment_file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    text = TWO.replace('name = "a"', 'name = "a"\nengine = "vllm"')
    experiment_file.write_text(text.replace("top_k = 1", 'engine = "llamacpp"'))
    with FakeEngine() as other:
        urls = {"urls": f"vllm={engine.url},llamacpp={other.url}", "url": "", "kind": "embedded"}
        with running(experiment_file, engine, index_dir, engine=urls) as client:
            variants = client.post("/query/ab", QUESTION).json()["variants"]
            assert [v["response"]["engine"] for v in variants] == ["vllm", "llamacpp"]
            assert (len(engine.chats), len(other.chats)) == (1, 1)
            other.script = sending(b"no", status=503)
            a, b = client.post("/query/ab", QUESTION).json()["variants"]
            assert (a["status"], a["response"]["engine"]) == (200, "vllm")
            assert (b["status"], b["response"]) == (503, None)
            assert len(engine.chats) == 2


def test_ab_asks_both_at_the_same_time(
    experiment_file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    async def script(exchange: Exchange) -> None:
        while len(engine.chats) < 2:  # the engine gives the first up after a second
            await exchange.until_gone(0.05)
        await saying()(exchange)

    engine.script = script
    limits = {"first_token_seconds": 10.0}
    with running(experiment_file, engine, index_dir, engine=limits) as client:
        body = client.post("/query/ab", QUESTION).json()
        assert [v["status"] for v in body["variants"]] == [200, 200]


def test_ab_refuses_what_it_cannot_do(
    client: Client, experiment_file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    none = client.post("/query/ab", QUESTION)
    assert (none.status, none.error()["code"]) == (404, "not_found")
    with running(experiment_file, engine, index_dir) as own:
        assert own.post("/query/ab", QUESTION, {"X-Engine": "llamacpp"}).status == 422
        assert own.post("/query/ab", {"query": "x"}).status == 422
    assert engine.chats == []


def test_ab_is_limited_by_its_own_class(
    experiment_file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    limit = {"enabled": True, "query_per_minute": 2}
    with running(experiment_file, engine, index_dir, limit=limit) as client:
        statuses = [client.post("/query/ab", QUESTION).status for _ in range(3)]
        assert statuses == [200, 200, 429]
