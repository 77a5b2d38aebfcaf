"""A bad network between us and the engine, engines that stall, clients that do not read.

Each fault has its declared answer within a bound of time, and leaves nothing open.
"""

import asyncio
import gc
import json
import os
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from api.answering.events import Event, Token
from api.engines.client import Engine, EngineLimits, Finish, Sampling
from api.errors import EngineDisconnect, EngineSilent, RagError
from api.http.responses import StreamedAnswer
from api.runtime.drain import Drain
from api.telemetry.record import Record
from tests.support.engine import DIALECTS, Exchange, FakeEngine, in_stream, saying, tgi_stream
from tests.support.fault_proxy import FaultProxy, Faults
from tests.support.waiting import eventually

LIMITS = EngineLimits(connect_s=1, first_token_s=1.5, token_s=1.0)
PIECES = ["Hola", " Perú", " 🙂\u2028", "!"]
WHOLE = "".join(PIECES)


def ask(url: str, *, deadline_s: float = 20, limits: EngineLimits = LIMITS) -> str | RagError:
    """Return the answer's text, or the error it ended in; nothing may stay open."""

    async def run() -> str | RagError:
        async with aiohttp.ClientSession() as session:
            engine = Engine(session, kind="tgi", url=url, model="m", limits=limits)
            deadline = asyncio.get_running_loop().time() + deadline_s
            sampling = Sampling(max_tokens=8, temperature=0)
            stream = engine.stream([], sampling, request_id="r", deadline=deadline)
            pieces: list[str] = []
            try:
                async for piece in stream:
                    if isinstance(piece, Finish):
                        return "".join(pieces)
                    pieces.append(piece)
            except RagError as error:
                return error
            finally:
                await stream.aclose()
                assert engine.in_flight == 0
                assert len(asyncio.all_tasks()) == 1
        raise AssertionError("neither an end nor an error")

    return asyncio.run(run())


@pytest.mark.parametrize(
    "faults",
    [
        Faults(piece=1),
        Faults(piece=3),
        Faults(piece=100, pause_s=0.01),
        Faults(merge_s=0.2),
        Faults(latency_s=0.3),
    ],
    ids=["byte by byte", "split code points", "trickle", "merged", "latency"],
)
@pytest.mark.parametrize("kind", DIALECTS)
def test_network_slow_or_torn_gives_the_same_text(
    engine: FakeEngine, kind: str, faults: Faults
) -> None:
    engine.script = in_stream(*DIALECTS[kind].stream(PIECES))
    with FaultProxy(engine.port, faults) as proxy:
        assert ask(proxy.url) == WHOLE


@pytest.mark.parametrize("reset", [False, True], ids=["FIN", "RST"])
@pytest.mark.parametrize("cut_after", [0, 10, 120, 400, 700])
def test_network_cut_is_an_error_never_a_shorter_answer(
    engine: FakeEngine, cut_after: int, reset: bool
) -> None:
    engine.script = in_stream(*tgi_stream(PIECES))
    with FaultProxy(engine.port, Faults(cut_after=cut_after, reset=reset)) as proxy:
        assert isinstance(ask(proxy.url), RagError)


@pytest.mark.parametrize("silent_after", [0, 150, 400])
def test_network_half_open_is_given_up_in_time(engine: FakeEngine, silent_after: int) -> None:
    engine.script = in_stream(*tgi_stream(PIECES))
    started = time.monotonic()
    with FaultProxy(engine.port, Faults(silent_after=silent_after)) as proxy:
        assert isinstance(ask(proxy.url), EngineSilent)
    assert time.monotonic() - started < 4


def test_network_too_slow_for_the_deadline_is_told_as_that(engine: FakeEngine) -> None:
    from api.errors import DeadlineExceeded

    engine.script = saying(["a"] * 50, every=0.05)
    assert isinstance(ask(engine.url, deadline_s=0.5), DeadlineExceeded)


def test_engine_trickling_comments_is_given_up_in_time(engine: FakeEngine) -> None:
    async def comments(exchange: Exchange) -> None:
        await exchange.head()
        for _ in range(60):
            await exchange.send(b": keep-alive\n\n")
            await asyncio.sleep(0.1)

    engine.script = comments
    started = time.monotonic()
    assert isinstance(ask(engine.url), EngineSilent)
    assert time.monotonic() - started < 3


def test_engine_endless_line_is_bounded_in_memory(engine: FakeEngine) -> None:
    import resource

    async def endless(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(b"data: ")
        for _ in range(200):
            await exchange.send(b"x" * 1_000_000)

    engine.script = endless
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert isinstance(ask(engine.url), RagError)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000


def test_cancelled_streams_leave_a_small_pool_whole() -> None:
    """5,000 streams left after their first token, over 10 connections (httpx loses its pool)."""

    async def forever(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(tgi_stream(["a"])[1])
        await exchange.until_gone()

    async def run(engine: FakeEngine) -> None:
        connector = aiohttp.TCPConnector(limit=10)
        async with aiohttp.ClientSession(connector=connector) as session:
            client = Engine(session, kind="tgi", url=engine.url, model="m", limits=LIMITS)
            sampling = Sampling(max_tokens=8, temperature=0)

            async def leave() -> None:
                deadline = asyncio.get_running_loop().time() + 30
                stream = client.stream([], sampling, request_id="r", deadline=deadline)
                await anext(stream)
                await stream.aclose()

            for _ in range(500):
                await asyncio.gather(*(leave() for _ in range(10)))
            assert client.in_flight == 0
            assert len(asyncio.all_tasks()) == 1
            engine.script = in_stream(*tgi_stream(PIECES))
            deadline = asyncio.get_running_loop().time() + 5
            stream = client.stream([], sampling, request_id="r", deadline=deadline)
            assert [piece async for piece in stream][:-1] == PIECES

    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    with FakeEngine() as engine:
        engine.script = forever
        asyncio.run(run(engine))
        gc.collect()
        if before is not None:
            eventually(lambda: n_connections(engine.url) == 0)
    if before is not None:  # a few: the server that other tests share goes on with its probes
        eventually(lambda: len(os.listdir("/proc/self/fd")) <= before + 8)


def n_connections(url: str) -> int:
    """Return how many are open to a port of this machine, or closed by the other side alone."""
    port = f":{int(url.rsplit(':', 1)[1]):04X}"
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(
        port in local + remote and state in ("01", "08") for _, local, remote, state, *_ in rows
    )


def test_client_that_stops_reading_is_cut() -> None:
    closed = []

    async def events() -> AsyncGenerator[Event]:
        try:
            while True:
                yield Token("a" * 1000)
        finally:
            closed.append(True)

    async def receive() -> dict:
        await asyncio.Event().wait()
        return {}

    async def send(message: dict) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    record = Record(request_id="r", started=time.monotonic())
    answer = StreamedAnswer(events(), record, Drain(), commit_s=0.1, heartbeat_s=0.1, stall_s=0.2)

    async def run() -> float:
        started = time.monotonic()
        await asyncio.wait_for(answer({"type": "http"}, receive, send), 5)
        return time.monotonic() - started

    assert asyncio.run(run()) < 2
    assert closed == [True]
    assert record.outcome == "client_gone"


def test_engine_gone_between_request_and_answer_is_disconnect_or_down(engine: FakeEngine) -> None:
    async def hang_up(exchange: Exchange) -> None:
        exchange.reset()

    engine.script = hang_up
    error = ask(engine.url)
    assert isinstance(error, RagError) and not isinstance(error, EngineDisconnect)


TGI_API = Path(__file__).parents[3] / "shared" / "protocols" / "tgi-openapi.json"


def test_script_of_tgi_is_what_its_own_document_says() -> None:
    if not TGI_API.exists():
        pytest.skip("shared/protocols/tgi-openapi.json is not beside the project")
    from jsonschema import Draft202012Validator

    document = _without_nullable(json.loads(TGI_API.read_text()))

    def validator(name: str) -> Draft202012Validator:
        return Draft202012Validator({"$ref": f"#/components/schemas/{name}", **document})

    frames = [frame for frame in tgi_stream(PIECES) if frame.startswith(b"data: {")]
    assert len(frames) == len(PIECES) + 2
    for frame in frames:
        validator("ChatCompletionChunk").validate(json.loads(frame[6:]))
    validator("Info").validate(DIALECTS["tgi"].facts["/info"])
    refused = {"error": "Model is overloaded", "error_type": "overloaded"}
    validator("ErrorResponse").validate(refused)


def _without_nullable(node: Any) -> Any:
    """Turn OpenAPI 3.0's `nullable` into JSON Schema."""
    if isinstance(node, list):
        return [_without_nullable(entry) for entry in node]
    if not isinstance(node, dict):
        return node
    changed = {key: _without_nullable(value) for key, value in node.items() if key != "nullable"}
    return {"anyOf": [changed, {"type": "null"}]} if node.get("nullable") is True else changed
