"""Experiments: who gets which variant, what it changes, and what is told of it."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from api.answering.experiments import Experiment, load_experiment
from api.answering.prompt import PromptBuilder
from api.settings.env import SettingsError
from api.settings.groups import Secret
from tests.support.fake_engine import Exchange, FakeEngine, saying, sending
from tests.support.harness import (
    QUESTION,
    Client,
    eventually,
    frames,
    ledger_url,
    live,
    settings_for,
)

TWO = """
[experiment]
name = "shorter"
sticky = "conversation"
[[experiment.variants]]
name = "a"
[[experiment.variants]]
name = "b"
prompt_file = "b.txt"
top_k = 1
temperature = 0.7
max_tokens = 9
"""
KEY = {"X-API-Key": "the-key-of-the-settings-0"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "b.txt").write_text("Answer as briefly as you can.")
    (tmp_path / "e.toml").write_text(TWO)
    return tmp_path / "e.toml"


def load(file: Path, **groups: Any) -> Experiment:
    groups["experiments"] = {"file": str(file)}
    settings = settings_for("http://127.0.0.1:1", file.parent, **groups)
    experiment = load_experiment(settings, PromptBuilder())
    assert experiment is not None
    return experiment


@contextmanager
def running(file: Path, engine: FakeEngine, index_dir: Path, /, **groups: Any) -> Iterator[Client]:
    groups["experiments"] = {"file": str(file)}
    with live(settings_for(engine.url, index_dir, **groups)) as (client, _):
        yield client


def question_of(file: Path, variant: str) -> str:
    """A question that gets this variant."""
    experiment = load(file)
    asked = (f"What is the capital of France? {n}" for n in range(100))
    return next(text for text in asked if experiment.assigned(text).name == variant)


def test_shares_follow_the_weights(file: Path) -> None:
    file.write_text(TWO.replace('name = "b"', 'name = "b"\nweight = 3'))
    experiment = load(file)
    counts = Counter(experiment.assigned(f"key{n}").name for n in range(2000))
    assert 1420 <= counts["b"] <= 1580  # 1500 expected, four standard deviations to each side
    assert counts.total() == 2000


def test_assignment_is_sticky_and_another_experiment_assigns_anew(file: Path) -> None:
    def assigned() -> list[str]:
        experiment = load(file)
        return [experiment.assigned(f"key{n}").name for n in range(200)]

    first = assigned()
    assert assigned() == first
    file.write_text(TWO.replace("shorter", "longer"))
    assert assigned() != first


def test_assignment_is_pinned_for_replicas_and_releases_to_come(file: Path) -> None:
    assert "".join(load(file).assigned(f"key{n}").name for n in range(12)) == PINNED


PINNED = "bbaaabbababa"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('name = "shorter"', "", "name"),
        ('name = "shorter"', 'name = "two words"', "experiment.name"),
        ('"conversation"', '"user"', "experiment.sticky"),
        ('name = "b"', 'name = "a"', "experiment.variants[1].name: 'a' is there twice"),
        ("top_k = 1", "top_k = 21", "<= 20 - at `experiment.variants[1].top_k`"),
        ("top_k = 1", "topk = 1", "unknown field `topk` - at `experiment.variants[1]`"),
        ("top_k = 1", "weight = 0", ">= 1 - at `experiment.variants[1].weight`"),
        ("0.7", "2.5", "<= 2.0 - at `experiment.variants[1].temperature`"),
        ("0.7", "nan", ">= 0.0 - at `experiment.variants[1].temperature`"),
        ("0.7", "inf", "experiment.variants[1].temperature"),
        ("max_tokens = 9", "max_tokens = 1025", "<= 1024 - at `experiment.variants[1].max_tokens`"),
        ("top_k = 1", 'engine = "vllm"', "variants[1].engine: must be one of llamacpp"),
        ("b.txt", "c.txt", "prompt_file of 'b': cannot read"),
        ('name = "a"\n[[experiment.variants]]\n', "", "length >= 2 - at `experiment.variants`"),
        ("top_k = 1", "top_k = ", "line"),
    ],
)
def test_mistake_in_the_file_is_named(file: Path, old: str, new: str, says: str) -> None:
    assert old in TWO
    file.write_text(TWO.replace(old, new))
    with pytest.raises(SettingsError) as raised:
        load(file)
    assert str(raised.value).startswith("EXPERIMENTS_FILE: ")
    assert says in str(raised.value)


def test_file_that_is_missing_blank_or_too_large_is_named(file: Path) -> None:
    (file.parent / "b.txt").write_text(" \n")
    with pytest.raises(SettingsError, match="prompt_file of 'b': is blank"):
        load(file)
    (file.parent / "b.txt").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="prompt_file of 'b': cannot read"):
        load(file)
    file.write_text("#" * 100_001)
    with pytest.raises(SettingsError, match="larger than 100000 bytes"):
        load(file)
    file.unlink()
    with pytest.raises(SettingsError, match="EXPERIMENTS_FILE: cannot read"):
        load(file)


def test_variant_changes_what_the_engine_is_asked(
    file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    with running(file, engine, index_dir) as client:
        told = {
            name: client.post("/query", {"query": question_of(file, name)}).json() for name in "ab"
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
    file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    with running(file, engine, index_dir) as client:
        own = {"query": question_of(file, "b"), "top_k": 3, "temperature": 0, "max_tokens": 20}
        body = client.post("/query", own).json()
        assert body["variant"] == "b"
        assert len(body["sources"]) > 1
        sent = engine.chats[0].json()
        assert (sent["max_tokens"], sent["temperature"]) == (20, 0.0)


def test_every_route_tells_the_variant_and_x_engine_takes_no_part(
    file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    question = question_of(file, "b")
    with running(file, engine, index_dir) as client:
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
    file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    with running(file, engine, index_dir) as client:
        for name in "ab":
            first = question_of(file, name)
            other = question_of(file, "b" if name == "a" else "a")
            history = [
                {"role": "user", "content": first},
                {"role": "assistant", "content": "Paris."},
            ]
            body = client.post("/query", {"query": other, "history": history}).json()
            assert body["variant"] == name


def test_key_keeps_its_variant_whatever_it_asks(
    file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    file.write_text(TWO.replace('"conversation"', '"key"'))
    expected = load(file).assigned("settings").name
    auth = {"enabled": True, "api_key": Secret(KEY["X-API-Key"])}
    with running(file, engine, index_dir, auth=auth) as client:
        for n in range(5):
            body = client.post("/query", {"query": f"What is the capital of Peru? {n}"}, KEY).json()
            assert body["variant"] == expected


def test_cache_keeps_variants_apart(file: Path, engine: FakeEngine, index_dir: Path) -> None:
    cache = {"enabled": True, "redis_url": Secret(ledger_url())}
    with running(file, engine, index_dir, cache=cache) as client:
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


def test_ab_answers_with_every_variant_each_priced_and_named(
    file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    with running(file, engine, index_dir) as client:
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
    file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    async def script(exchange: Exchange) -> None:
        failing = exchange.call.json()["max_tokens"] == 9
        await (sending(b"no", status=500) if failing else saying())(exchange)

    engine.script = script
    with running(file, engine, index_dir) as client:
        a, b = client.post("/query/ab", QUESTION).json()["variants"]
        assert (a["status"], b["status"]) == (200, 502)
        assert (b["response"], b["error"]["code"]) == (None, "engine_error")
        counted = {"variant": "b", "outcome": "engine_error"}
        assert client.metric("rag_experiment_answers_total", **counted) == 1


def test_variant_names_its_engine_and_no_other_takes_over(
    file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    text = TWO.replace('name = "a"', 'name = "a"\nengine = "vllm"')
    file.write_text(text.replace("top_k = 1", 'engine = "llamacpp"'))
    with FakeEngine() as other:
        urls = {"urls": f"vllm={engine.url},llamacpp={other.url}", "url": "", "kind": "embedded"}
        with running(file, engine, index_dir, engine=urls) as client:
            variants = client.post("/query/ab", QUESTION).json()["variants"]
            assert [v["response"]["engine"] for v in variants] == ["vllm", "llamacpp"]
            assert (len(engine.chats), len(other.chats)) == (1, 1)
            other.script = sending(b"no", status=503)
            a, b = client.post("/query/ab", QUESTION).json()["variants"]
            assert (a["status"], a["response"]["engine"]) == (200, "vllm")
            assert (b["status"], b["response"]) == (503, None)
            assert len(engine.chats) == 2


def test_ab_asks_both_at_the_same_time(file: Path, engine: FakeEngine, index_dir: Path) -> None:
    async def script(exchange: Exchange) -> None:
        while len(engine.chats) < 2:  # the engine gives the first up after a second
            await exchange.until_gone(0.05)
        await saying()(exchange)

    engine.script = script
    limits = {"first_token_seconds": 10.0}
    with running(file, engine, index_dir, engine=limits) as client:
        body = client.post("/query/ab", QUESTION).json()
        assert [v["status"] for v in body["variants"]] == [200, 200]


def test_ab_refuses_what_it_cannot_do(
    client: Client, file: Path, engine: FakeEngine, index_dir: Path
) -> None:
    none = client.post("/query/ab", QUESTION)
    assert (none.status, none.error()["code"]) == (404, "not_found")
    with running(file, engine, index_dir) as own:
        assert own.post("/query/ab", QUESTION, {"X-Engine": "llamacpp"}).status == 422
        assert own.post("/query/ab", {"query": "x"}).status == 422
    assert engine.chats == []


def test_ab_is_limited_by_its_own_class(file: Path, engine: FakeEngine, index_dir: Path) -> None:
    limit = {"enabled": True, "ab_per_minute": 2}
    with running(file, engine, index_dir, limit=limit) as client:
        statuses = [client.post("/query/ab", QUESTION).status for _ in range(3)]
        assert statuses == [200, 200, 429]


def test_log_has_experiment_variant_and_prompt(
    file: Path, engine: FakeEngine, index_dir: Path, tmp_path: Path
) -> None:
    database = {"database_url": Secret(f"sqlite:///{tmp_path}/log.sqlite")}
    with running(file, engine, index_dir, database=database) as client:
        client.post("/query/ab", QUESTION, {"X-Request-ID": "q"})
        client.post("/query", {"query": question_of(file, "b")}, {"X-Request-ID": "r"})
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


def test_example_of_the_docs_loads(file: Path) -> None:
    docs = Path("docs/operating.md").read_text()
    file.write_text(docs.partition("```toml\n")[2].partition("```")[0])
    (file.parent / "short.txt").write_text("Answer as briefly as you can.")
    urls = {"urls": "vllm=http://127.0.0.1:1,vllm=http://127.0.0.1:2", "kind": "embedded"}
    b = load(file, engine=urls).variants[1]
    assert (b.name, b.engine) == ("b", "vllm-2")
    assert b.changes == {"top_k": 5, "temperature": 0.0, "max_tokens": 60}
