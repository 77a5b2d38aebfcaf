"""X-API-Key: who may, and that keys stay out of sight."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from api.settings.types import Secret
from tests.support.engine import FakeEngine
from tests.support.harness import QUESTION, Client, live, settings_for

KEY = "canary-key-0123456789"


@pytest.fixture(scope="module")
def locked(_engine: FakeEngine, index_dir: Path) -> Iterator[Client]:
    auth = {"enabled": True, "api_key": Secret(KEY)}
    limit = {"failed_keys_per_minute": 1000}
    with live(settings_for(_engine.url, index_dir, auth=auth, limit=limit)) as (client, _):
        yield client


@pytest.mark.parametrize("path", ["/query", "/query/stream", "/search"])
@pytest.mark.parametrize("key", [None, "", "wrong", KEY[:-1], KEY + "x", "\xff\xfe"])
def test_key_wrong_or_missing_is_401(locked: Client, path: str, key: str | None) -> None:
    answered = locked.post(path, QUESTION, {} if key is None else {"X-API-Key": key})
    assert (answered.status, answered.error()["code"]) == (401, "unauthorized")
    assert answered.error()["message"] == "Invalid or missing API key"


def test_key_wrong_is_told_before_the_body_is_read(locked: Client) -> None:
    assert locked.request("POST", "/query", b"{", {"Content-Type": "text/plain"}).status == 401


@pytest.mark.parametrize("path", ["/query", "/query/stream", "/search"])
def test_key_right_is_admitted(locked: Client, engine: FakeEngine, path: str) -> None:
    assert locked.post(path, QUESTION, {"X-API-Key": KEY}).status == 200


def test_stats_needs_the_key(locked: Client) -> None:
    assert locked.get("/health/stats").status == 401
    assert locked.get("/health/stats", {"X-API-Key": KEY}).status == 200


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/metrics", "/docs", "/schema"])
def test_operations_are_open(locked: Client, path: str) -> None:
    assert locked.get(path).status == 200


def test_key_refusals_are_counted_and_keys_stay_out_of_metrics(locked: Client) -> None:
    locked.post("/query", QUESTION, {"X-API-Key": KEY + "-wrong"})
    assert locked.metric("rag_requests_total", outcome="rejected_auth", status="401") >= 1
    assert KEY.encode() not in locked.get("/metrics").body
