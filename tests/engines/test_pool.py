"""Several engines: failing over, load, pinning, health."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from api.engines.client import Finish, Sampling
from api.engines.pool import Engines, Health
from api.errors import EngineDown, EngineFailed, Invalid, RagError
from tests.support.engine import DIALECTS, DONE, Exchange, FakeEngine, delta, saying, sending
from tests.support.harness import QUESTION, Client, Stream, frames, live, settings_for, text_of
from tests.support.waiting import eventually


@contextmanager
def several(
    index_dir: Path, n: int = 2, **groups: dict
) -> Iterator[tuple[Client, list[FakeEngine]]]:
    with ExitStack() as stack:
        engines = [stack.enter_context(FakeEngine()) for _ in range(n)]
        urls = ",".join(f"vllm={engine.url}" for engine in engines)
        for engine in engines:
            engine.facts.update(DIALECTS["vllm"].facts)
        settings = settings_for("", index_dir, engine={"kind": "embedded", "urls": urls, "url": ""})
        client, _ = stack.enter_context(live(settings))
        eventually(lambda: all(len(engine.calls) > 0 for engine in engines))
        yield client, engines


async def refuse(exchange: Exchange) -> None:
    """Close before the head."""


async def overloaded(exchange: Exchange) -> None:
    await exchange.json(503, {"error": {"message": "queue full"}})


def test_failover_before_the_first_token_another_engine_answers(index_dir: Path) -> None:
    with several(index_dir) as (client, (first, second)):
        for script in (refuse, overloaded, sending(DONE), sending(b"data: oops\n\n")):
            first.script = script
            second.script = saying(["from the second"])
            stream = frames(client.post("/query/stream", QUESTION).body)
            assert text_of(stream) == "from the second"
            assert stream[-1].data["engine"] in ("vllm", "vllm-2")
        assert client.metric("rag_tokens_total", engine="vllm-2", direction="completion") >= 1


def test_failover_after_the_first_token_is_an_error(index_dir: Path) -> None:
    with several(index_dir) as (client, (first, second)):
        first.script = second.script = sending(delta("Paris"))
        stream = frames(client.post("/query/stream", QUESTION).body)
        assert [frame.event for frame in stream] == ["sources", "token", "error"]
        assert len(first.chats) + len(second.chats) == 1


def test_failover_at_most_one_retry(index_dir: Path) -> None:
    with several(index_dir, 3) as (client, engines):
        for engine in engines:
            engine.script = refuse
        answered = client.post("/query", QUESTION)
        assert (answered.status, answered.error()["code"]) == (503, "engine_down")
        assert sum(len(engine.chats) for engine in engines) == 2


def test_failover_retries_stay_inside_their_budget(index_dir: Path) -> None:
    with several(index_dir) as (client, engines):
        for engine in engines:
            engine.script = refuse
        for _ in range(30):
            client.post("/query", QUESTION)
        asked = sum(len(engine.chats) for engine in engines)
        assert 30 < asked <= 30 + 5 + 30 * 0.1 + 1


def test_failed_engine_is_left_alone_then_probed(index_dir: Path) -> None:
    with several(index_dir) as (client, (first, second)):
        first.script = refuse
        client.post("/query", QUESTION)
        for _ in range(5):
            assert client.post("/query", QUESTION).json()["engine"] == "vllm-2"
        assert len(first.chats) == 1
        first.script = saying(["back"])
        time.sleep(1.3)
        found = {client.post("/query", QUESTION).json()["engine"] for _ in range(3)}
        assert "vllm" in found
        stats = client.get("/health/stats").json()["engines"]
        assert [engine["failures"] for engine in stats] == [0, 0]


def test_load_goes_to_the_least_loaded_engine(index_dir: Path) -> None:
    with several(index_dir) as (client, (first, second)):
        first.script = second.script = saying(["a"] * 40, every=0.05)
        with Stream(client) as one, Stream(client) as two:
            assert one.read().status == two.read().status == 200
            assert (len(first.chats), len(second.chats)) == (1, 1)


def test_pinned_engine_answers_and_is_not_replaced(index_dir: Path) -> None:
    with several(index_dir) as (client, (first, second)):
        for _ in range(3):
            answered = client.post("/query", QUESTION, {"X-Engine": "vllm-2"})
            assert answered.json()["engine"] == "vllm-2"
        assert first.chats == []
        second.script = refuse
        assert client.post("/query", QUESTION, {"X-Engine": "vllm-2"}).status == 503
        assert first.chats == []
        answered = client.post("/query", QUESTION, {"X-Engine": "gpt"})
        assert (answered.status, answered.error()["code"]) == (422, "invalid")


def test_one_engine_down_stays_healthy_overall(index_dir: Path) -> None:
    with several(index_dir) as (client, (first, second)):
        first.facts_status = 500
        health = client.get("/health/ready").json()
        assert health["checks"]["engine"]["status"] == "ok"
        assert client.metric("rag_engine_up", engine="vllm") == 0
        assert client.metric("rag_engine_up", engine="vllm-2") == 1


def test_health_back_off_doubles_and_is_bounded() -> None:
    health, pauses = Health(), []
    for _ in range(9):
        health.fail(0.0)
        pauses.append(health.closed_until)
    assert 0.75 <= pauses[0] <= 1.25
    assert 1.5 <= pauses[1] <= 2.5
    assert max(pauses) <= 75
    health.succeed()
    assert health.is_open(0.0)


def test_health_probe_lets_one_through() -> None:
    health = Health()
    health.fail(0.0)
    assert not health.is_open(0.5)
    assert health.is_open(2.0)
    health.is_probed = True
    assert not health.is_open(2.0)


def test_engines_unknown_name_is_invalid() -> None:
    with pytest.raises(Invalid):
        Engines([])["none"]


class Scripted:
    """An engine of pure values for `Engines` itself."""

    def __init__(self, name: str, *said: str | Finish | RagError) -> None:
        self.name = name
        self.model = "m"
        self.context_tokens = None
        self.in_flight = 0
        self.said = said
        self.asked = 0

    async def stream(self, messages, sampling, *, request_id, deadline):
        self.asked += 1
        for piece in self.said:
            if isinstance(piece, RagError):
                raise piece
            yield piece


def engines_of(*scripted: Any) -> Engines:
    return Engines(scripted)


def pieces_of(engines: Engines) -> list:
    async def run() -> list:
        sampling = Sampling(max_tokens=1, temperature=0)
        opened = await engines.open([], sampling, request_id="r", deadline=0)
        return [opened.engine.name, opened.first, *[piece async for piece in opened.rest]]

    return asyncio.run(run())


def test_engines_error_of_the_second_is_told() -> None:
    engines = engines_of(Scripted("a", EngineDown("a")), Scripted("b", EngineFailed("b")))
    with pytest.raises(EngineFailed):
        pieces_of(engines)


def test_engines_overload_is_retried_but_not_held_against_the_engine() -> None:
    from api.errors import EngineOverloaded

    finish = Finish("stop", None)
    engines = engines_of(Scripted("a", EngineOverloaded("a")), Scripted("b", "x", finish))
    assert pieces_of(engines) == ["b", "x", finish]
    assert engines.failures("a") == 0
