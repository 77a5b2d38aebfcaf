"""A batch sent again: idempotency keys, and what the limits count."""

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.http.batches import FRANCE, PERU, TEA, statuses
from tests.support.engine import FakeEngine, saying
from tests.support.harness import Client, live, settings_for
from tests.support.waiting import eventually

KEYED = {"Idempotency-Key": "b-1"}


@contextmanager
def posting(client: Client, body: object, headers: dict[str, str]) -> Iterator[None]:
    """Send a batch and leave at the end of the block, whatever has come."""
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)
    sent = {"Content-Type": "application/json", **headers}
    connection.request("POST", "/batch", msgspec.json.encode(body), sent)
    try:
        yield
    finally:
        connection.close()


@pytest.fixture
def fresh(index_dir: Path, engine: FakeEngine) -> Iterator[Client]:
    with live(settings_for(engine.url, index_dir)) as (client, _):
        yield client


def test_batch_same_key_and_body_is_answered_once(fresh: Client, engine: FakeEngine) -> None:
    first = fresh.post("/batch", {"queries": [FRANCE, "no"]}, KEYED)
    again = fresh.post("/batch", {"queries": [FRANCE, "no"]}, KEYED)
    assert (again.status, again.body) == (200, first.body)
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert len(engine.chats) == 1


def test_batch_same_key_other_body_is_a_conflict(fresh: Client, engine: FakeEngine) -> None:
    fresh.post("/batch", {"queries": [FRANCE]}, KEYED)
    refused = fresh.post("/batch", {"queries": [PERU]}, KEYED)
    assert (refused.status, refused.error()["code"]) == (409, "conflict")
    assert fresh.post("/batch", {"queries": [PERU]}, {"Idempotency-Key": "b-2"}).status == 200
    too_long = fresh.post("/batch", {"queries": [PERU]}, {"Idempotency-Key": "x" * 256})
    assert (too_long.status, too_long.error()["code"]) == (422, "invalid")
    assert len(engine.chats) == 2


def test_batch_same_key_while_running_conflicts_and_is_free_when_its_client_left(
    fresh: Client, engine: FakeEngine
) -> None:
    engine.script = saying(["a"] * 400, every=0.05)
    body = {"queries": [FRANCE]}
    with posting(fresh, body, KEYED):
        eventually(lambda: len(engine.chats) == 1)
        assert fresh.post("/batch", body, KEYED).status == 409
    engine.script = saying()
    eventually(lambda: fresh.post("/batch", body, KEYED).status == 200)
    assert len(engine.chats) == 2


def test_batch_questions_are_counted_at_the_door(index_dir: Path, engine: FakeEngine) -> None:
    limit = {"enabled": True, "batch_per_minute": 5}
    with live(settings_for(engine.url, index_dir, limit=limit)) as (client, _):
        first = client.post("/batch", {"queries": [FRANCE, FRANCE, PERU]}, KEYED)
        assert statuses(first.json()) == [200, 200, 200]
        remaining = {name: value for name, value in first.headers.items() if "remaining" in name}
        assert list(remaining.values()) == ["2"]
        refused = client.post("/batch", {"queries": [FRANCE, PERU, TEA]})
        assert (refused.status, refused.error()["code"]) == (429, "rate_limited")
        assert int(refused.headers["retry-after"]) >= 1
        assert client.metric("rag_rate_limit_violations_total", **{"class": "batch"}) == 1
        assert client.post("/batch", {"queries": [FRANCE, FRANCE, PERU]}, KEYED).status == 200
        assert len(engine.chats) == 2
