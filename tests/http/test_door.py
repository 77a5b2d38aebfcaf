"""Keys and limits over HTTP: what a caller sees of them."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from api.admission.caller import KeyBudget, LimitOverride
from api.admission.key_store import KeyStore
from api.admission.keys import KeySpec
from api.admission.trip import TAKE
from api.ledger.scripts import RESERVE, SETTLE
from api.settings.types import Secret
from api.stores.breaker import Breaker
from api.stores.calls import RedisCalls
from tests.support.engine import FakeEngine, saying
from tests.support.harness import QUESTION, Client, live, settings_for
from tests.support.servers import AS_LEDGER, RedisServer, redis_server
from tests.support.waiting import eventually

ADMIN = {"X-API-Key": "canary-key-0123456789"}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("ledger"), *AS_LEDGER) as running:
        yield running


@pytest.fixture(scope="module")
def locked(_engine: FakeEngine, index_dir: Path, ledger: RedisServer) -> Iterator[Client]:
    settings = settings_for(
        _engine.url,
        index_dir,
        auth={"enabled": True, "api_key": Secret(ADMIN["X-API-Key"])},
        ledger={"redis_url": Secret(ledger.url)},
        limit={"enabled": True, "query_per_minute": 5, "failed_keys_per_minute": 1000},
    )
    with live(settings) as (client, _):
        yield client


def with_keys(ledger: RedisServer, use):
    async def main():
        redis: Redis = ledger.client()
        try:
            return await use(KeyStore(RedisCalls(redis, Breaker("keys"), timeout_s=5)))
        finally:
            await redis.aclose()

    return asyncio.run(main())


def new_key(ledger: RedisServer, **spec) -> tuple[str, dict[str, str]]:
    """Make a key; return its id and the header that carries it."""
    created = with_keys(ledger, lambda store: store.create(KeySpec(name="test", **spec)))
    return created.record.id, {"Authorization": f"Bearer {created.key.text()}"}


def test_key_of_the_store_is_admitted_and_counted_for_itself(
    locked: Client, engine: FakeEngine, ledger: RedisServer
) -> None:
    _, one = new_key(ledger)
    _, other = new_key(ledger)
    answers = [locked.post("/query", QUESTION, one) for _ in range(6)]
    assert [a.status for a in answers] == [200] * 5 + [429]
    assert answers[0].headers["ratelimit-limit"] == "5"
    assert [a.headers["ratelimit-remaining"] for a in answers[:5]] == ["4", "3", "2", "1", "0"]
    assert answers[5].error()["code"] == "rate_limited"
    assert 1 <= int(answers[5].headers["retry-after"]) <= 12
    assert locked.post("/query", QUESTION, other).status == 200
    assert locked.post("/search", {"query": "Lima"}, one).status == 200
    assert locked.metric("rag_rate_limit_violations_total") >= 1


def test_rate_limit_status_tells_and_takes_nothing(
    locked: Client, engine: FakeEngine, ledger: RedisServer
) -> None:
    own = LimitOverride(route_class="query", requests=7)
    _, key = new_key(ledger, limits=(own,))
    locked.post("/query", QUESTION, key)
    for _ in range(3):
        status = locked.get("/rate-limit/status", key).json()
        rows = {row["route_class"]: row for row in status["limits"]}
        assert (rows["query"]["limit"], rows["query"]["remaining"]) == (7, 6)
        assert rows["batch"]["remaining"] == 20
    assert (status["enabled"], status["counted"]) == (True, "shared")


def test_key_revoked_is_refused_at_the_next_request(
    locked: Client, engine: FakeEngine, ledger: RedisServer
) -> None:
    key_id, key = new_key(ledger)
    assert locked.post("/query", QUESTION, key).status == 200
    with_keys(ledger, lambda store: store.revoke(key_id))
    refused = locked.post("/query", QUESTION, key)
    assert (refused.status, refused.error()["code"]) == (401, "unauthorized")


def test_key_rotated_serves_on_in_its_grace(
    locked: Client, engine: FakeEngine, ledger: RedisServer
) -> None:
    key_id, old = new_key(ledger)
    created = with_keys(ledger, lambda store: store.rotate(key_id, grace_s=60))
    new = {"X-API-Key": created.key.text()}
    assert locked.post("/query", QUESTION, old).status == 200
    assert locked.post("/query", QUESTION, new).status == 200


@pytest.mark.parametrize(
    "scope, method, path, status",
    [
        ("query", "DELETE", "/cache", 403),
        ("admin", "DELETE", "/cache", 200),
        ("ingest", "POST", "/query", 403),
        ("ingest", "GET", "/budget", 403),
        ("query", "GET", "/budget", 200),
    ],
)
def test_scope_decides(
    locked: Client, engine: FakeEngine, ledger: RedisServer, scope, method, path, status
) -> None:
    _, key = new_key(ledger, scopes=frozenset({scope}))
    body = b'{"query": "Where is Lima?"}' if method == "POST" else None
    answered = locked.request(method, path, body, {"Content-Type": "application/json", **key})
    assert answered.status == status


def test_key_budget_is_its_own(locked: Client, engine: FakeEngine, ledger: RedisServer) -> None:
    _, poor = new_key(ledger, budgets=(KeyBudget("day", 1),))
    _, rich = new_key(ledger, budgets=(KeyBudget("day", 10**9),))
    assert locked.post("/query", QUESTION, poor).error()["code"] == "budget_exhausted"
    assert locked.post("/query", QUESTION, rich).status == 200
    (scope,) = locked.get("/budget", rich).json()["scopes"]
    assert (scope["window"], scope["limit_eur"]) == ("day", 1000)
    assert "global" in {s["scope"] for s in locked.get("/budget", ADMIN).json()["scopes"]}


def test_feedback_of_another_tenant_evicts_nothing(
    _engine: FakeEngine, engine: FakeEngine, index_dir: Path, ledger: RedisServer
) -> None:
    settings = settings_for(
        _engine.url,
        index_dir,
        auth={"enabled": True, "api_key": Secret(ADMIN["X-API-Key"])},
        ledger={"redis_url": Secret(ledger.url)},
        cache={"enabled": True, "redis_url": Secret(f"unix://{ledger.socket}?db=1")},
    )
    _, mine = new_key(ledger, tenant="acme")
    _, theirs = new_key(ledger, tenant="evil")
    with live(settings) as (client, _):
        made = client.post("/query", QUESTION, mine).json()
        entry_id = made["cache"]["entry_id"]
        wrong = {"request_id": made["request_id"], "rating": "down"}
        assert client.post("/feedback", wrong, theirs).status == 404
        gone = client.post("/feedback", {**wrong, "entry_id": entry_id}, theirs)
        assert (gone.status, gone.json()["evicted"]) == (200, False)
        assert client.post("/query", QUESTION, theirs).json()["cache"]["kind"] == "none"
        assert client.post("/query", QUESTION, mine).json()["cache"]["kind"] == "exact"
        assert client.post("/feedback", wrong, mine).json()["evicted"] is True


def test_overload_refuses_at_once_and_serves_the_rest(engine: FakeEngine, index_dir: Path) -> None:
    engine.script = saying(["a"], first_after=0.3)
    queue = {"max_concurrent": 4, "queue": 8, "queue_seconds": 5.0}
    with live(settings_for(engine.url, index_dir, engine=queue)) as (client, _):
        with ThreadPoolExecutor(40) as pool:
            answers = list(pool.map(lambda _: client.post("/query", QUESTION), range(40)))
        statuses = [a.status for a in answers]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 12
        refused = next(a for a in answers if a.status == 429)
        assert refused.error()["code"] == "engine_overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/health/stats").json()["queue"] == {"in_use": 0, "waiting": 0}


def test_trips_to_the_ledger_one_for_a_hit_three_for_a_miss(
    _engine: FakeEngine, engine: FakeEngine, index_dir: Path, ledger: RedisServer
) -> None:
    settings = settings_for(
        _engine.url,
        index_dir,
        auth={"enabled": True, "api_key": Secret(ADMIN["X-API-Key"])},
        ledger={"redis_url": Secret(ledger.url)},
        cache={"enabled": True, "redis_url": Secret(f"unix://{ledger.socket}?db=1")},
        limit={"enabled": True},
    )
    _, key = new_key(ledger, tenant="trips")
    with live(settings) as (client, _):
        client.post("/query", QUESTION, key)  # the key is seen, the scripts are loaded
        eventually(lambda: held(client) == 0)
        with overheard(ledger) as heard:
            client.post("/query", {"query": "Where is Lima?"}, key)
            # Once each in name: on a busy machine a trip may be sent again.
            eventually(lambda: list(dict.fromkeys(scripts(heard))) == ["take", "reserve", "settle"])
            heard.clear()
            assert client.post("/query", QUESTION, key).json()["cache"]["kind"] == "exact"
            client.post("/search", {"query": "Lima"}, key)  # by then all was heard
            eventually(lambda: len(scripts(heard)) >= 2)
            assert set(scripts(heard)) == {"take"}


def held(client: Client) -> float:
    scopes = client.get("/budget", ADMIN).json()["scopes"]
    return sum(scope["reserved_eur"] for scope in scopes)


SCRIPTS = {
    TAKE.sha: "take",
    RESERVE.flagged.sha: "reserve",
    RESERVE.plain.sha: "reserve",
    SETTLE.flagged.sha: "settle",
    SETTLE.plain.sha: "settle",
}


def scripts(heard: list[str]) -> list[str]:
    """Name the scripts of the path in what was heard; the background's `state` is none of it."""
    return [name for line in heard for sha, name in SCRIPTS.items() if sha in line]


@contextmanager
def overheard(server: RedisServer) -> Iterator[list[str]]:
    """Listen to every command that the server gets."""
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(server.socket))
        line.sendall(b"MONITOR\r\n")
        reader = line.makefile("rb")
        assert reader.readline() == b"+OK\r\n"
        thread = threading.Thread(target=lambda: heard.extend(raw.decode() for raw in reader))
        thread.start()
        try:
            yield heard
        finally:
            line.shutdown(socket.SHUT_RDWR)
            thread.join()
