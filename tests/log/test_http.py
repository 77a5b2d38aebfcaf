"""The log as callers and admins meet it: over HTTP, with a live server and both databases."""

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from api.settings.types import Secret
from tests.support.engine import FakeEngine, saying, sending
from tests.support.harness import QUESTION, Client, live, settings_for
from tests.support.servers import ledger_url
from tests.support.waiting import eventually

WITH_KEY = {"X-API-Key": "the-key-of-the-settings-0"}


_stores = itertools.count(1)


def cached() -> dict[str, object]:
    """The settings of a cache whose store is empty: a database of its own, of Valkey's 16."""
    url = f"{ledger_url().removesuffix('/0')}/{next(_stores) % 16}"
    return {"enabled": True, "redis_url": Secret(url)}


@contextmanager
def logging_to(
    url: str, engine: FakeEngine, index_dir: Path, *, text: str = "off", **groups: Any
) -> Iterator[Client]:
    database = {"database_url": Secret(url), "log_text": text}
    with live(settings_for(engine.url, index_dir, database=database, **groups)) as (client, _):
        yield client


def written(client: Client, n: int) -> bool:
    return client.metric("rag_log_written_total") >= n


def page(client: Client, **headers: str) -> Any:
    return client.get("/analytics/queries", headers).json()["answers"]


def test_answers_of_every_route_are_rows_without_text(
    migrated: str, engine: FakeEngine, index_dir: Path
) -> None:
    with logging_to(migrated, engine, index_dir) as client:
        client.post("/query", QUESTION, {"X-Request-ID": "plain"})
        client.post("/query/stream", QUESTION, {"X-Request-ID": "stream"})
        batch = {"queries": ["What is the capital of Peru?", QUESTION, "no"]}
        client.post("/batch", batch, {"X-Request-ID": "batch"})
        client.post("/search", QUESTION, {"X-Request-ID": "search"})
        client.post("/query", {"query": "x"}, {"X-Request-ID": "refused"})
        eventually(lambda: written(client, 4), within_s=20)
        answers = {answer["request_id"]: answer for answer in page(client)}
        assert set(answers) == {"plain", "stream", "batch-0", "batch-1"}
        for answer in answers.values():
            assert (answer["outcome"], answer["engine"]) == ("ok", "llamacpp")
            assert answer["passage_ids"] and answer["generation"] and answer["prompt_version"]
            assert answer["completion_tokens"] > 0 and answer["total_ms"] > 0
            assert answer["question"] is None and answer["answer"] is None
        assert answers["plain"]["endpoint"] == "/query"
        assert client.get("/health/stats").json()["checks"]["database"] == {"status": "ok"}
        assert client.metric("rag_database_up") == 1


def test_text_is_kept_where_it_is_on(migrated: str, engine: FakeEngine, index_dir: Path) -> None:
    with logging_to(migrated, engine, index_dir, text="on") as client:
        told = client.post("/query", QUESTION).json()
        eventually(lambda: written(client, 1), within_s=20)
        (answer,) = page(client)
        assert (answer["question"], answer["answer"]) == (QUESTION["query"], told["answer"])
        assert client.get("/analytics/questions").json() == {"keeps_text": True, "questions": []}


def test_cached_and_coalesced_answers_name_their_sources(
    migrated: str, engine: FakeEngine, index_dir: Path
) -> None:
    with logging_to(migrated, engine, index_dir, cache=cached()) as client:
        for _ in range(2):
            assert client.post("/query", QUESTION).status == 200
        eventually(lambda: written(client, 2), within_s=20)
        hit, made = page(client)
        assert (hit["cache"], made["cache"]) == ("exact", "none")
        assert hit["passage_ids"] == made["passage_ids"] != []
        assert hit["generation"] == made["generation"]
        savings = client.get("/analytics/savings?hours=1").json()
        assert savings["engine_answers"] == 1 and savings["kinds"][0]["answers"] == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_answer_shared_while_it_was_made_names_its_sources(
    migrated: str, engine: FakeEngine, index_dir: Path
) -> None:
    engine.script = saying(first_after=0.7)
    with logging_to(migrated, engine, index_dir, cache=cached()) as client:
        asking = [threading.Thread(target=client.post, args=("/query", QUESTION)) for _ in "ab"]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join(30)
        eventually(lambda: written(client, 2), within_s=20)
        by_cache = {answer["cache"]: answer for answer in page(client)}
        assert set(by_cache) == {"none", "coalesced"}
        for fact in ("passage_ids", "generation", "engine"):
            assert by_cache["coalesced"][fact] == by_cache["none"][fact] != []


def test_failed_answer_is_a_row_with_its_error(
    migrated: str, index_dir: Path, engine: FakeEngine
) -> None:
    engine.script = sending(b"no", status=500)
    with logging_to(migrated, engine, index_dir) as client:
        assert client.post("/query", QUESTION).status == 502
        eventually(lambda: written(client, 1), within_s=20)
        (answer,) = page(client)
        assert (answer["outcome"], answer["error"]) == ("engine_error", "engine_error")
        assert client.get("/analytics/summary").json()["errors"] == {"engine_error": 1}


def test_feedback_is_kept_and_idempotent(
    migrated: str, engine: FakeEngine, index_dir: Path
) -> None:
    with logging_to(migrated, engine, index_dir, text="on", cache=cached()) as client:
        client.post("/query", QUESTION, {"X-Request-ID": "asked", "Cache-Control": "no-cache"})
        for rating in ("up", "down", "down"):
            body = {"request_id": "asked", "rating": rating, "reason": "too short"}
            assert client.post("/feedback", body).status == 200
        unknown = {"request_id": "never", "rating": "down"}
        assert client.post("/feedback", unknown).status == 404
        eventually(lambda: written(client, 4), within_s=20)
        ((judgement,),) = (answer["feedback"] for answer in page(client))
        assert (judgement["rating"], judgement["reason"]) == ("down", "too short")


def test_feedback_for_an_answer_of_the_log_alone_is_taken(
    migrated: str, engine: FakeEngine, index_dir: Path
) -> None:
    with logging_to(migrated, engine, index_dir, cache=cached()) as client:
        client.post("/query", QUESTION, {"X-Request-ID": "asked", "Cache-Control": "no-cache"})
        eventually(lambda: written(client, 1), within_s=20)
    with logging_to(migrated, engine, index_dir, cache=cached()) as client:
        body = {"request_id": "asked", "rating": "down"}
        answered = client.post("/feedback", body)
        assert (answered.status, answered.json()) == (200, {"evicted": False})


def test_log_is_deleted_by_request_and_by_tenant(
    migrated: str, engine: FakeEngine, index_dir: Path
) -> None:
    with logging_to(migrated, engine, index_dir) as client:
        for name in ("a", "b", "c"):
            client.post("/query", QUESTION, {"X-Request-ID": name})
        client.post("/feedback", {"request_id": "b", "rating": "up"})
        eventually(lambda: written(client, 4), within_s=20)
        gone = client.request("DELETE", "/analytics/log?request_id=b")
        assert (gone.status, gone.json()) == (200, {"answers": 1, "feedback": 1})
        assert [answer["request_id"] for answer in page(client)] == ["c", "a"]
        gone = client.request("DELETE", "/analytics/log?tenant=public")
        assert gone.json() == {"answers": 2, "feedback": 0}
        assert page(client) == []


@pytest.mark.parametrize("query", ["", "?tenant=a&request_id=b"])
def test_log_deletion_without_one_name_is_refused(
    migrated: str, engine: FakeEngine, index_dir: Path, query: str
) -> None:
    with logging_to(migrated, engine, index_dir) as client:
        assert client.request("DELETE", f"/analytics/log{query}").status == 422


def test_nul_is_refused_before_it_reaches_the_database(
    migrated: str, engine: FakeEngine, index_dir: Path
) -> None:
    feedback = {"request_id": "a\0", "rating": "up"}
    with logging_to(migrated, engine, index_dir) as client:
        assert client.post("/feedback", feedback).status == 422
        for path in ("summary?tenant=a%00", "queries?outcome=%00", "experiments/a%00"):
            assert client.get(f"/analytics/{path}").status in (400, 422), path
        assert client.request("DELETE", "/analytics/log?request_id=a%00").status in (400, 422)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "query",
    ["hours=0", "hours=x", "hours=nan", "limit=0", "limit=201", "after=x", "after=1e9"],
)
def test_analytics_out_of_bounds_is_refused(
    migrated: str, engine: FakeEngine, index_dir: Path, query: str
) -> None:
    with logging_to(migrated, engine, index_dir) as client:
        assert client.get(f"/analytics/queries?{query}").status in (400, 422), query


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_analytics_wants_the_scope_admin(
    migrated: str, engine: FakeEngine, index_dir: Path
) -> None:
    auth = {"enabled": True, "api_key": Secret(WITH_KEY["X-API-Key"])}
    with logging_to(migrated, engine, index_dir, auth=auth) as client:
        for name in ("summary", "queries", "questions", "savings", "engines"):
            assert client.get(f"/analytics/{name}").status == 401
            assert client.get(f"/analytics/{name}", WITH_KEY).status == 200
        assert client.request("DELETE", "/analytics/log?tenant=a").status == 401


def test_analytics_without_a_database_is_not_found(client: Client) -> None:
    assert client.get("/analytics/summary").status == 404
    assert client.get("/health/stats").json()["checks"]["database"] == {"status": "off"}


def test_sqlite_is_made_in_the_index_folder_by_itself(
    engine: FakeEngine, index_dir: Path, tmp_path: Path
) -> None:
    with logging_to(f"sqlite:///{tmp_path}/a/b.sqlite", engine, index_dir) as client:
        client.post("/query", QUESTION)
        eventually(lambda: written(client, 1), within_s=20)
    assert (tmp_path / "a/b.sqlite").read_bytes().startswith(b"SQLite format 3")


def test_old_tables_in_postgresql_are_told_and_answers_go_on(
    postgres_server: Any, engine: FakeEngine, index_dir: Path
) -> None:
    with logging_to(postgres_server.create("old"), engine, index_dir) as client:
        assert client.post("/query", QUESTION).status == 200

        def told() -> bool:
            check = client.get("/health/ready").json()["checks"]["database"]
            return check["status"] == "down" and "ragrelay db upgrade" in check["detail"]

        eventually(told, within_s=20)
        assert client.get("/health/ready").status == 200
        asked = client.get("/analytics/summary")
        assert (asked.status, asked.error()["code"]) == (503, "database_down")
        assert json.loads(asked.body)["error"]["retryable"]
