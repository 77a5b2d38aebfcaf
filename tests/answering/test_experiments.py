"""Experiments on the answer path: what a variant changes, and what is told of it."""

from pathlib import Path

from api.answering.prompt import PromptBuilder
from api.settings.types import Secret
from tests.answering.experimenting import TWO, load, question_of, running
from tests.support.engine import FakeEngine
from tests.support.harness import QUESTION, frames
from tests.support.servers import ledger_url
from tests.support.waiting import eventually

KEY = {"X-API-Key": "the-key-of-the-settings-0"}


def test_variant_changes_what_the_engine_is_asked(
    experiment_file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    with running(experiment_file, engine, index_dir) as client:
        told = {
            name: client.post("/query", {"query": question_of(experiment_file, name)}).json()
            for name in "ab"
        }
        assert [(body["experiment"], body["variant"]) for body in told.values()] == [
            ("shorter", "a"), ("shorter", "b"),
        ]  # fmt: skip
        assert len(told["a"]["sources"]) > len(told["b"]["sources"]) == 1
        a, b = (call.json() for call in engine.chats)
        assert (a["max_tokens"], a["temperature"]) == (80, 0.1)
        assert (b["max_tokens"], b["temperature"]) == (9, 0.7)
        assert a["messages"][0]["content"].startswith("You answer questions")
        assert b["messages"][0]["content"] == "Answer as briefly as you can."
        for name in "ab":
            counted = {"experiment": "shorter", "variant": name, "outcome": "ok"}
            assert client.metric("rag_experiment_answers_total", **counted) == 1


def test_values_of_the_request_stand_before_the_variant(
    experiment_file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    with running(experiment_file, engine, index_dir) as client:
        own = {
            "query": question_of(experiment_file, "b"),
            "top_k": 3,
            "temperature": 0,
            "max_tokens": 20,
        }
        body = client.post("/query", own).json()
        assert body["variant"] == "b"
        assert len(body["sources"]) > 1
        sent = engine.chats[0].json()
        assert (sent["max_tokens"], sent["temperature"]) == (20, 0.0)


def test_every_route_tells_the_variant_and_x_engine_takes_no_part(
    experiment_file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    question = question_of(experiment_file, "b")
    with running(experiment_file, engine, index_dir) as client:
        done = frames(client.post("/query/stream", {"query": question}).body)[-1]
        assert (done.event, done.data["experiment"], done.data["variant"]) == (
            "done", "shorter", "b",
        )  # fmt: skip
        (result,) = client.post("/batch", {"queries": [question]}).json()["results"]
        assert result["response"]["variant"] == "b"
        chat = {"messages": [{"role": "user", "content": question}]}
        assert client.post("/v1/chat/completions", chat).json()["ragrelay"]["variant"] == "b"
        assert {call.json()["max_tokens"] for call in engine.chats} == {9}
        pinned = client.post("/query", {"query": question}, {"X-Engine": "llamacpp"}).json()
        assert {"experiment", "variant"}.isdisjoint(pinned)
        assert engine.chats[-1].json()["max_tokens"] == 80
        counted = client.metric("rag_experiment_answers_total", variant="b", outcome="ok")
        assert counted == 3


def test_conversation_keeps_the_variant_of_its_first_question(
    experiment_file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    with running(experiment_file, engine, index_dir) as client:
        for name in "ab":
            first = question_of(experiment_file, name)
            other = question_of(experiment_file, "b" if name == "a" else "a")
            history = [
                {"role": "user", "content": first},
                {"role": "assistant", "content": "Paris."},
            ]
            body = client.post("/query", {"query": other, "history": history}).json()
            assert body["variant"] == name


def test_key_keeps_its_variant_whatever_it_asks(
    experiment_file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    experiment_file.write_text(TWO.replace('"conversation"', '"key"'))
    expected = load(experiment_file).assigned("settings").name
    auth = {"enabled": True, "api_key": Secret(KEY["X-API-Key"])}
    with running(experiment_file, engine, index_dir, auth=auth) as client:
        for n in range(5):
            body = client.post("/query", {"query": f"What is the capital of Peru? {n}"}, KEY).json()
            assert body["variant"] == expected


def test_cache_keeps_variants_apart(
    experiment_file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    cache = {"enabled": True, "redis_url": Secret(ledger_url())}
    with running(experiment_file, engine, index_dir, cache=cache) as client:
        fresh = {"Cache-Control": "no-cache"}
        asked = {"query": "What is the capital of Peru, please?"}
        first = client.post("/query/ab", asked, fresh).json()
        again = client.post("/query/ab", asked).json()
        assert len(engine.chats) == 2
        entries = [
            [variant["response"]["cache"]["entry_id"] for variant in body["variants"]]
            for body in (first, again)
        ]
        assert entries[0] == entries[1]
        assert len(set(entries[0])) == 2
        kinds = [(v["variant"], v["response"]["cache"]["kind"]) for v in again["variants"]]
        assert kinds == [("a", "exact"), ("b", "exact")]
        assert [v["response"]["variant"] for v in again["variants"]] == ["a", "b"]


def test_log_has_experiment_variant_and_prompt(
    experiment_file: Path, engine: FakeEngine, index_dir: Path, tmp_path: Path
) -> None:
    database = {"database_url": Secret(f"sqlite:///{tmp_path}/log.sqlite")}
    with running(experiment_file, engine, index_dir, database=database) as client:
        client.post("/query/ab", QUESTION, {"X-Request-ID": "q"})
        client.post("/query", {"query": question_of(experiment_file, "b")}, {"X-Request-ID": "r"})
        eventually(lambda: client.metric("rag_log_written_total") >= 3, within_s=20)
        rows = {r["request_id"]: r for r in client.get("/analytics/queries").json()["answers"]}
        assert {id: (r["experiment"], r["variant"]) for id, r in rows.items()} == {
            "q-a": ("shorter", "a"), "q-b": ("shorter", "b"), "r": ("shorter", "b"),
        }  # fmt: skip
        assert rows["q-b"]["prompt_version"] == rows["r"]["prompt_version"]
        assert rows["q-a"]["prompt_version"] == PromptBuilder().version
        assert rows["q-b"]["prompt_version"] != rows["q-a"]["prompt_version"]
        report = client.get("/analytics/experiments/shorter").json()
        assert [(v["variant"], v["answers"]) for v in report["variants"]] == [("a", 1), ("b", 2)]
        assert report["verdict"] == "no difference shown yet"
        judged = client.post("/feedback", {"request_id": "q-b", "rating": "down"})
        assert judged.status == 200
        eventually(lambda: client.metric("rag_log_written_total") >= 4, within_s=20)
        report = client.get("/analytics/experiments/shorter").json()
        assert [v["down"] for v in report["variants"]] == [0, 1]
        assert client.get("/analytics/experiments/none").status == 404
