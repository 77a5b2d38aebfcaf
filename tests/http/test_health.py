"""Health routes, readiness while loading, metrics, docs, and two apps in one process."""

import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from api.http.edge import Edge
from api.http.schemas import QueryResponse
from retrieval.models.embedder import load_embedder
from tests.support.engine import FakeEngine, saying
from tests.support.harness import QUESTION, Client, Stream, live, settings_for
from tests.support.waiting import eventually


def test_health_alive_is_200(client: Client) -> None:
    answered = client.get("/health")
    assert (answered.status, answered.json()) == (200, {"status": "ok"})


def test_ready_loaded_lists_every_check(client: Client) -> None:
    body = client.get("/health/ready").json()
    assert body["status"] == "ok"
    assert set(body["checks"]) == {
        "models", "index", "engine", "redis_cache", "redis_ledger", "database",
    }  # fmt: skip
    assert body["checks"]["models"]["status"] == "ok"
    assert body["checks"]["engine"]["status"] == "ok"
    assert body["checks"]["redis_cache"]["status"] == "down"


def test_ready_engine_down_stays_ready_and_says_so(client: Client, engine: FakeEngine) -> None:
    engine.facts_status = 500
    answered = client.get("/health/ready")
    assert answered.status == 200
    assert answered.json()["checks"]["engine"]["detail"] == "HTTP 500"
    assert client.metric("rag_engine_up", engine="llamacpp") == 0


def test_stats_tells_index_engines_and_uptime(client: Client) -> None:
    body = client.get("/health/stats").json()
    assert body["index"]["documents"] == 3
    assert body["engines"][0]["model"] == "Qwen/Qwen2.5-3B-Instruct"
    assert body["uptime_s"] > 0
    assert body["children"] == []


def test_start_port_opens_before_models_are_loaded(
    index_dir: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "api.documents.loader.load_embedder", load_embedder
    )  # not one lent by quick_starts
    with live(settings_for(engine.url, index_dir), wait=False) as (client, _):
        assert client.get("/health").status == 200
        answered = client.post("/query", QUESTION)
        assert (answered.status, answered.error()["code"]) == (503, "loading")
        assert int(answered.headers["retry-after"]) >= 1
        assert client.get("/health/ready").json()["status"] == "loading"
        eventually(lambda: client.get("/health/ready").status == 200, within_s=60)
        assert client.post("/query", QUESTION).status == 200


def test_index_missing_is_503_with_the_command_and_heals(
    tmp_path: Path, index_dir: Path, engine: FakeEngine
) -> None:
    with live(settings_for(engine.url, tmp_path / "none"), wait=False) as (client, app):
        eventually(lambda: app.service.loader.settled.is_set(), within_s=60)
        for path in ("/query", "/query/stream", "/search"):
            answered = client.post(path, QUESTION)
            assert (answered.status, answered.error()["code"]) == (503, "no_index")
            assert "ragrelay index" in answered.error()["message"]
        ready = client.get("/health/ready")
        assert ready.status == 503
        assert ready.json()["checks"]["index"]["status"] == "down"
        assert client.get("/health").status == 200

        (tmp_path / "none").mkdir(exist_ok=True)
        for entry in index_dir.iterdir():
            (tmp_path / "none" / entry.name).symlink_to(entry)
        eventually(lambda: client.get("/health/ready").status == 200, within_s=10)
        assert client.post("/query", QUESTION).status == 200


def test_model_unknown_is_503_and_named(
    index_dir: Path, engine: FakeEngine, tmp_path: Path
) -> None:
    settings = settings_for(
        engine.url, index_dir, retrieval={"embedding_model": str(tmp_path / "no-model")}
    )
    with live(settings, wait=False) as (client, app):
        eventually(lambda: app.service.loader.settled.is_set(), within_s=60)
        answered = client.post("/query", QUESTION)
        assert answered.status == 503
        assert "model" in answered.error()["message"]
        assert client.get("/health/ready").json()["checks"]["models"]["status"] == "down"


def test_engine_down_search_still_answers(index_dir: Path) -> None:
    with live(settings_for("http://127.0.0.1:9", index_dir)) as (client, _):
        answered = client.post("/query", QUESTION)
        assert (answered.status, answered.error()["code"]) == (503, "engine_down")
        assert client.post("/query/stream", QUESTION).status == 503
        assert len(client.post("/search", QUESTION).json()["hits"]) >= 1
        assert client.get("/health/ready").json()["checks"]["engine"]["status"] == "down"


def test_deadline_over_is_504(index_dir: Path, engine: FakeEngine) -> None:
    engine.script = saying(["a"] * 100, every=0.05)
    settings = settings_for(engine.url, index_dir, api={"deadline_seconds": 0.5})
    with live(settings) as (client, _):
        answered = client.post("/query", QUESTION)
        assert (answered.status, answered.error()["code"]) == (504, "deadline")


def test_metrics_count_answers_by_outcome(client: Client, engine: FakeEngine) -> None:
    before = client.metric("rag_requests_total", endpoint="/query", outcome="ok")
    tokens = client.metric("rag_tokens_total", direction="completion")
    client.post("/query", QUESTION)
    client.post("/query", {})
    assert client.metric("rag_requests_total", endpoint="/query", outcome="ok") == before + 1
    assert client.metric("rag_tokens_total", direction="completion") == tokens + 3
    assert client.metric("rag_errors_total", code="invalid") >= 1
    assert client.metric("rag_requests_total", endpoint="unmatched", status="404") >= 0
    assert client.metric("rag_first_token_seconds_count") >= 1
    assert client.metric("rag_stage_seconds_count", stage="embed") >= 1
    assert client.metric("rag_index_passages") == 3
    assert client.metric("rag_index_generation_age_seconds") > 0
    assert client.metric("process_resident_memory_bytes") > 0


def test_metrics_hold_no_user_text_and_no_raw_paths(client: Client) -> None:
    client.post("/query", {"query": "canary-4711 in Paris?"}, {"X-Request-ID": "canary-id"})
    client.get("/canary-path")
    assert b"canary" not in client.get("/metrics").body


def test_open_streams_count_while_open(client: Client, app: Edge, engine: FakeEngine) -> None:
    engine.script = saying(["a"] * 20, every=0.05)
    with Stream(client) as stream:
        stream.read().readline()
        assert client.metric("rag_open_streams") == 1
        assert client.metric("rag_engine_in_flight", engine="llamacpp") == 1
    eventually(lambda: client.metric("rag_open_streams") == 0)


def test_schema_describes_every_route_with_examples(client: Client) -> None:
    schema = client.get("/schema").json()
    assert schema["openapi"].startswith("3.1")
    assert {"/query", "/query/stream", "/search", "/health", "/health/ready", "/metrics"} <= set(
        schema["paths"]
    )
    query = schema["components"]["schemas"]["QueryRequest"]
    assert query["properties"]["query"]["maxLength"] == 512
    assert query["properties"]["query"]["examples"]
    plain = schema["paths"]["/query"]["post"]["responses"]["200"]["content"]
    (example,) = plain["application/json"]["examples"].values()
    assert msgspec.convert(example["value"], QueryResponse, strict=True).sources[0].n == 1
    stream = schema["paths"]["/query/stream"]["post"]["responses"]
    assert "text/event-stream" in stream["200"]["content"]
    assert {"400", "401", "422", "429", "502", "503", "504"} <= set(stream)


def test_docs_page_needs_no_other_origin(client: Client) -> None:
    page = client.get("/docs")
    assert page.status == 200
    assert b"http" not in page.body.replace(b"http-equiv", b"")
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "start.js"):
        assert f"docs/{name}".encode() in page.body
        assert client.get(f"/docs/{name}").status == 200


def test_two_apps_share_nothing(index_dir: Path, engine: FakeEngine) -> None:
    settings = settings_for(engine.url, index_dir)
    with live(settings) as (one, _), live(settings) as (other, _):
        one.post("/query", QUESTION)
        assert one.metric("rag_requests_total", endpoint="/query") == 1
        assert other.metric("rag_requests_total", endpoint="/query") == 0


def test_import_opens_nothing() -> None:
    code = (
        "import socket, threading, sys; before = threading.active_count()\n"
        "import api.app, api.cli.main, api.server\n"
        "assert threading.active_count() == before, threading.enumerate()\n"
        "assert 'torch' not in sys.modules\n"
        "import os; fds = [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') "
        "if os.path.exists(f'/proc/self/fd/{n}')] if os.path.isdir('/proc/self/fd') else []\n"
        "assert not [fd for fd in fds if fd.startswith('socket')], fds\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/", timeout=60)


@pytest.mark.parametrize(
    ("origin", "allowed"), [("https://ok.example", True), ("https://no", False)]
)
def test_cors_allows_the_named_origins_only(
    index_dir: Path, engine: FakeEngine, origin: str, allowed: bool
) -> None:
    settings = settings_for(engine.url, index_dir, api={"cors_origins": "https://ok.example"})
    with live(settings, wait=False) as (client, _):
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        answered = client.request("OPTIONS", "/query", headers=headers)
        assert (answered.headers.get("access-control-allow-origin") == origin) is allowed


def test_cors_off_by_default(client: Client) -> None:
    answered = client.get("/health", {"Origin": "https://any.example"})
    assert "access-control-allow-origin" not in answered.headers


def test_loop_lag_is_measured(client: Client) -> None:
    time.sleep(0.6)
    assert client.metric("rag_event_loop_lag_seconds_count") >= 1
