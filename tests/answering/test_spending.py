"""Budgets end to end: what is refused, what is charged, and what still answers."""

import asyncio
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from api.http.edge import Edge
from api.settings.types import Secret
from tests.support.cli import serving
from tests.support.engine import DONE, FakeEngine, delta, saying, sending, usage
from tests.support.harness import QUESTION, Client, Stream, frames, live, settings_for
from tests.support.servers import AS_LEDGER, RedisServer, redis_server
from tests.support.waiting import eventually

EUR_PER_1K = {"cost_per_1k_input": 1.0, "cost_per_1k_output": 2.0}
COST = 39 * 0.001 + 3 * 0.002
"""Of the fake engine's usual answer: 39 prompt tokens, 3 of its own."""
LONG_WINDOW = 31_536_000


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "ledger").mkdir()
    with redis_server(tmp_path / "ledger", *AS_LEDGER) as running:
        yield running


@contextmanager
def spending(
    fake: FakeEngine, index_dir: Path, redis: RedisServer, limit_eur: float, **groups: dict
) -> Iterator[tuple[Client, Edge]]:
    """A live server with a budget, and a window that does not end during a test."""
    ledger = {
        "redis_url": Secret(redis.url),
        "cost_limit_eur": limit_eur,
        "window_seconds": LONG_WINDOW,
        **EUR_PER_1K,
    }
    groups["ledger"] = ledger | groups.get("ledger", {})
    with live(settings_for(fake.url, index_dir, **groups)) as served:
        yield served


def spent(client: Client) -> tuple[float, float]:
    """Return what is spent and what is held, in EUR, of the common budget."""
    (scope,) = client.get("/budget").json()["scopes"]
    return scope["spent_eur"], scope["reserved_eur"]


def test_answer_costs_what_the_engine_used(
    engine: FakeEngine, index_dir: Path, redis: RedisServer
) -> None:
    with spending(engine, index_dir, redis, 100) as (client, _):
        assert client.post("/query", QUESTION).json()["cost_eur"] == pytest.approx(COST)
        with Stream(client) as stream:
            done = frames(stream.read().read())[-1]
        assert (done.event, done.data["cost_eur"]) == ("done", pytest.approx(COST))
        eventually(lambda: spent(client) == (pytest.approx(2 * COST), 0))
        assert client.metric("rag_cost_eur_total") == pytest.approx(2 * COST)
        eventually(
            lambda: client.metric("rag_circuit_breaker_cumulative_cost_eur", scope="global") > COST,
            within_s=10,
        )


def test_budget_used_up_is_429_until_the_window_ends_and_the_rest_still_serves(
    engine: FakeEngine, index_dir: Path, redis: RedisServer
) -> None:
    cache = {"enabled": True, "redis_url": Secret(redis.url)}
    with spending(engine, index_dir, redis, 1.5, cache=cache) as (client, _):
        first = client.post("/query", QUESTION | {"max_tokens": 5})
        assert first.status == 200
        refused = client.post("/query", {"query": "Where is Lima?", "max_tokens": 1000})
        assert (refused.status, refused.error()["code"]) == (429, "budget_exhausted")
        assert 1 <= int(refused.headers["retry-after"]) <= LONG_WINDOW
        with Stream(client, body={"query": "Where is Lima?", "max_tokens": 1000}) as stream:
            assert stream.read().status == 429
        again = client.post("/query", QUESTION | {"max_tokens": 5}).json()
        assert (again["cache"]["kind"], again["cost_eur"]) == ("exact", 0)
        assert client.post("/search", {"query": "Lima"}).status == 200
        assert client.metric("rag_requests_total", outcome="rejected_budget") == 2
        assert len(engine.chats) == 1


def test_budget_holds_however_many_ask_at_once(
    engine: FakeEngine, index_dir: Path, redis: RedisServer
) -> None:
    engine.script = saying(["a", "b", "c"], every=0.2)
    held, before = one_hold(engine, index_dir, redis)
    limit = before + 20.5 * held
    wide = {"max_concurrent": 500}
    with spending(engine, index_dir, redis, limit, engine=wide) as (client, _):
        engine.calls.clear()
        with ThreadPoolExecutor(200) as pool:
            answers = list(pool.map(lambda _: client.post("/query", QUESTION).status, range(200)))
        assert answers.count(200) >= 20
        assert set(answers) == {200, 429}
        assert spent(client)[0] <= limit
        assert len(engine.chats) == answers.count(200)


def one_hold(engine: FakeEngine, index_dir: Path, redis: RedisServer) -> tuple[float, float]:
    """Return what one question holds, and what was spent to find out."""
    with spending(engine, index_dir, redis, 1000) as (client, _):
        with Stream(client) as stream:
            response = stream.read()
            held = spent(client)[1]
            response.read()
        eventually(lambda: spent(client)[1] == 0)
        return held, spent(client)[0]


@pytest.mark.parametrize(
    "script, expected",
    [
        (sending(b"", status=429), 0.0),
        (sending(b"", status=401), 0.0),
        (sending(delta("a"), delta("b"), usage(39, 2), DONE), None),
        (sending(delta("a"), delta("b")), None),
    ],
    ids=["overloaded", "key refused", "no finish reason", "cut"],
)
def test_failed_answer_is_charged_for_what_was_made(
    engine: FakeEngine, index_dir: Path, redis: RedisServer, script, expected: float | None
) -> None:
    engine.script = script
    with spending(engine, index_dir, redis, 100) as (client, _):
        assert client.post("/query", QUESTION).status >= 400
        eventually(lambda: spent(client)[1] == 0)
        if expected is None:
            assert 0 < spent(client)[0] < 1
        else:
            assert spent(client)[0] == expected


def test_client_gone_is_charged_and_holds_nothing(
    engine: FakeEngine, index_dir: Path, redis: RedisServer
) -> None:
    engine.script = saying(["tick "] * 100, every=0.1)
    with spending(engine, index_dir, redis, 1000) as (client, _):
        with Stream(client) as stream:
            stream.read().read(200)
            assert spent(client)[1] > 0
        eventually(lambda: spent(client)[1] == 0)
        assert spent(client)[0] > 0


@pytest.mark.parametrize("mode, status", [("closed", 503), ("open", 200)])
def test_ledger_down_answers_as_declared(
    engine: FakeEngine, index_dir: Path, redis: RedisServer, mode: str, status: int
) -> None:
    with spending(engine, index_dir, redis, 100, ledger={"fail_mode": mode}) as (client, _):
        redis.kill()
        answered = client.post("/query", QUESTION)
        assert answered.status == status
        if mode == "closed":
            assert answered.error()["code"] == "ledger_down"
            assert client.get("/budget").status == 503
        else:
            assert answered.json()["degraded"] == ["ledger_open"]
            assert client.get("/budget").json()["counted"] == "here"
            assert client.metric("rag_ledger_open") == 1
        assert client.get("/health/stats").json()["ledger"]["is_down"] is True
        assert client.get("/health/ready").status == 200
        redis.start()
        eventually(lambda: client.post("/query", QUESTION).status == 200, within_s=20)
        if mode == "open":  # what was counted here is folded in
            n_answers = len(engine.chats)
            want = (pytest.approx(n_answers * COST), 0)
            eventually(lambda: client.get("/budget").json()["counted"] == "shared", within_s=20)
            eventually(lambda: spent(client) == want, within_s=20)


def drain_variables(redis: RedisServer) -> dict[str, str]:
    return {
        "CB_REDIS_URL": redis.url,
        "CB_COST_LIMIT_EUR": "100000",
        "CB_WINDOW_SECONDS": str(LONG_WINDOW),
        "CB_COST_PER_1K_INPUT": "1",
        "CB_COST_PER_1K_OUTPUT": "2",
        "CB_FAIL_MODE": "closed",
        "LIMIT_ENABLED": "false",
    }


def test_sigterm_with_open_streams_settles_every_one(
    engine: FakeEngine, index_dir: Path, redis: RedisServer
) -> None:
    engine.script = saying(["tick "] * 300, every=0.1)
    variables = drain_variables(redis) | {"API_DRAIN_SECONDS": "1"}
    with serving(engine, index_dir, **variables) as (process, client), ExitStack() as open_ones:
        for _ in range(50):
            open_ones.enter_context(Stream(client))
        eventually(lambda: len(engine.chats) == 50, within_s=30)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    with spending(engine, index_dir, redis, 100_000) as (client, _):
        now_spent, held = spent(client)
        assert held == 0
        assert now_spent > 50 * 0.01


def test_sigkill_with_open_streams_frees_the_budget_within_a_lease(
    engine: FakeEngine, index_dir: Path, redis: RedisServer
) -> None:
    engine.script = saying(["tick "] * 300, every=0.1)
    variables = drain_variables(redis) | {"API_DEADLINE_SECONDS": "1000"}
    with serving(engine, index_dir, **variables) as (process, client), ExitStack() as open_ones:
        for _ in range(5):
            open_ones.enter_context(Stream(client))
        eventually(lambda: len(engine.chats) == 5, within_s=30)
        held = spent(client)[1]
        assert held > 0
        process.kill()
        process.wait()
    end_leases(redis)
    with spending(engine, index_dir, redis, 100_000) as (client, _):
        assert spent(client) == (pytest.approx(held), 0)


def end_leases(redis: RedisServer) -> None:
    """Let every lease have ended an hour ago: the wait itself is tested with the ledger."""

    async def main() -> None:
        client = redis.client()
        keys = [key async for key in client.scan_iter("*") if await client.type(key) == b"zset"]
        assert keys
        for key in keys:
            for member, ends in await client.zrange(key, 0, -1, withscores=True):
                await client.zadd(key, {member: ends - 3_600_000})
        await client.aclose()

    asyncio.run(main())


def test_four_servers_share_one_budget(
    engine: FakeEngine, index_dir: Path, redis: RedisServer
) -> None:
    engine.script = saying(["a", "b"], every=0.5)
    held, before = one_hold(engine, index_dir, redis)
    limit = before + 6.5 * held
    with ExitStack() as stack:
        servers = [spending(engine, index_dir, redis, limit) for _ in range(4)]
        clients = [stack.enter_context(server)[0] for server in servers]
        with ThreadPoolExecutor(40) as pool:
            asked = [pool.submit(clients[n % 4].post, "/query", QUESTION) for n in range(40)]
            statuses = [one.result().status for one in asked]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 6
        assert spent(clients[0])[0] <= limit
