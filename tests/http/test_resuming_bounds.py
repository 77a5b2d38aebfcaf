"""Resumed streams belong to who asked, count once, and end: left for good, drained, shut down."""

import asyncio
import time
from pathlib import Path

from redis.asyncio import Redis

from api.admission.key_store import KeyStore
from api.admission.keys import KeySpec
from api.runtime.drain import Drain
from api.settings.types import Secret
from api.stores.breaker import Breaker
from api.stores.calls import RedisCalls
from tests.http.resuming import ALL, RESUMABLE, Reader, taken_up
from tests.support.engine import FakeEngine, saying
from tests.support.harness import frames, live, run_in, settings_for
from tests.support.servers import ledger_url
from tests.support.waiting import eventually


def test_stream_left_for_good_closes_the_engine_after_its_time(
    index_dir: Path, engine: FakeEngine
) -> None:
    engine.script = saying(["a"] * 400, every=0.05)
    settings = settings_for(engine.url, index_dir, api={"resume_seconds": 1.0})
    with live(settings) as (client, app), Reader(client) as reader:
        reader.ask()
        reader.read(100)
        reader.leave()
        left = time.monotonic()
        eventually(lambda: engine.chats[0].gone_at is not None, within_s=10)
        assert (engine.chats[0].gone_at or 0) - left > 0.8
        assert reader.resume() == 404
        eventually(lambda: app.service.queue.in_use == 0)
        assert app.service.drain.n_open == 0


def make_keys(*tenants: str) -> list[str]:
    """Make a key for each tenant in the store of all live servers."""

    async def create() -> list[str]:
        async with Redis.from_url(ledger_url()) as redis:
            store = KeyStore(RedisCalls(redis, Breaker("keys"), timeout_s=5))
            specs = [KeySpec(name=f"{tenant}-key", tenant=tenant) for tenant in tenants]
            return [(await store.create(spec)).key.text() for spec in specs]

    return asyncio.run(create())


def test_two_callers_cannot_read_each_others_stream(index_dir: Path, engine: FakeEngine) -> None:
    auth = {"enabled": True, "api_key": Secret("settings-key-0123456789-abcdef")}
    with live(settings_for(engine.url, index_dir, auth=auth)) as (client, _):
        acme, other, third = make_keys("acme", "other", "acme")
        with Reader(client, {"X-API-Key": acme}) as reader:
            reader.ask()
            reader.read(ALL)
            own = client.get(f"/query/stream/{reader.resume_id}", {"X-API-Key": acme})
            assert (own.status, own.body) == (200, reader.received)
            for key in (other, third, "settings-key-0123456789-abcdef"):
                foreign = client.get(f"/query/stream/{reader.resume_id}", {"X-API-Key": key})
                unknown = client.get("/query/stream/unknown", {"X-API-Key": key})
                assert foreign.status == unknown.status == 404
                assert foreign.json()["detail"] == unknown.json()["detail"]
            assert client.get(f"/query/stream/{reader.resume_id}").status == 401


def test_resuming_takes_nothing_of_the_limit(index_dir: Path, engine: FakeEngine) -> None:
    limit = {"enabled": True, "query_per_minute": 1}
    with live(settings_for(engine.url, index_dir, limit=limit)) as (client, _):
        resume_id = client.post("/query/stream", RESUMABLE).headers["x-resume-id"]
        assert client.post("/query/stream", RESUMABLE).status == 429
        for _ in range(3):
            assert taken_up(client, resume_id).status == 200


def test_drain_waits_for_a_kept_stream_and_tells_it_to_end(
    index_dir: Path, engine: FakeEngine
) -> None:
    engine.script = saying(["a"] * 400, every=0.05)
    with live(settings_for(engine.url, index_dir)) as (client, app):
        with Reader(client) as reader:
            reader.ask()
            reader.read(100)
            reader.leave()
            eventually(lambda: client.metric("rag_requests_total", outcome="client_gone") == 1)
            drain: Drain = app.service.drain
            assert drain.n_open == 1
            run_in(client, drain.finish(0.2, is_hurried=lambda: False))
            assert drain.n_open == 0
            eventually(lambda: engine.chats[0].gone_at is not None, within_s=2)
            reader.resume()
            reader.read(ALL)
            last = frames(reader.received)[-1]
            assert (last.event, last.data["error"]["code"]) == ("error", "shutting_down")


def test_shutdown_stops_what_is_still_made(index_dir: Path, engine: FakeEngine) -> None:
    engine.script = saying(["a"] * 400, every=0.05)
    with live(settings_for(engine.url, index_dir)) as (client, _):
        with Reader(client) as reader:
            reader.ask()
            reader.leave()
    assert engine.chats[0].gone_at is not None
