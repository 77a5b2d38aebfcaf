"""When the first byte goes out, what fills silence, and what happens when the client leaves."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator

import pytest

from api.answering.events import Done, Event, Sources, Token
from api.errors import EngineFailed
from api.http.edge import Edge
from api.http.responses import PlainAnswer, StreamedAnswer
from api.runtime.drain import Drain
from api.telemetry.record import Record
from api.usage import Usage
from tests.support.engine import DONE, Exchange, FakeEngine, delta, saying
from tests.support.harness import QUESTION, Client, Stream, frames
from tests.support.waiting import eventually

DONE_EVENT = Done(
    finish_reason="stop",
    usage=Usage(prompt_tokens=1, completion_tokens=1),
    latency_ms={},
    degraded=[],
    request_id="r",
    engine="e",
    model="m",
    index_generation="g",
)


def open_streams(app: Edge) -> float:
    return app.service.metrics.registry.get_sample_value(
        "rag_engine_in_flight", {"engine": "llamacpp"}
    )


def test_stream_first_token_in_time_is_sent_as_it_comes(client: Client, engine: FakeEngine) -> None:
    engine.script = saying(["a", "b", "c"], every=0.25)
    seen = []
    started = time.monotonic()
    with Stream(client) as stream:
        response = stream.read()
        while line := response.readline():
            if line.startswith(b"event: token"):
                seen.append(time.monotonic() - started)
    assert len(seen) == 3
    assert seen[2] - seen[0] > 0.3


def test_stream_first_token_late_commits_with_sources_then_heartbeats(
    client: Client, engine: FakeEngine
) -> None:
    has_begun = threading.Event()

    async def waits_for_the_client(exchange: Exchange) -> None:
        await asyncio.to_thread(has_begun.wait, 5)
        await saying(["a"])(exchange)

    engine.script = waits_for_the_client
    started = time.monotonic()
    with Stream(client) as stream:
        response = stream.read()
        assert response.status == 200
        assert time.monotonic() - started > 0.3
        has_begun.set()
        assert response.readline() == b"id: 1\n"
        assert response.readline() == b"event: sources\n"
        assert b"event: done" in response.read()


def test_stream_engine_error_after_the_commit_is_an_error_event(
    client: Client, engine: FakeEngine
) -> None:
    async def late_error(exchange: Exchange) -> None:
        await exchange.head()
        await asyncio.sleep(0.7)
        await exchange.send(b'data: {"error":{"message":"Model is overloaded"}}\n\n' + DONE)

    engine.script = late_error
    answered = client.post("/query/stream", QUESTION)
    stream = frames(answered.body)
    assert answered.status == 200
    assert [frame.event for frame in stream] == ["sources", "error"]
    assert stream[-1].data["error"]["code"] == "engine_overloaded"
    before = client.metric("rag_requests_total", outcome="rejected_overload", status="200")
    assert before >= 1


def test_stream_engine_silent_between_tokens_is_given_up(
    client: Client, engine: FakeEngine
) -> None:
    async def comments(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(delta("a"))
        for _ in range(30):
            await exchange.send(b": keep-alive\n\n")
            await asyncio.sleep(0.1)

    engine.script = comments
    started = time.monotonic()
    stream = frames(client.post("/query/stream", QUESTION).body)
    assert stream[-1].data["error"]["code"] == "engine_silent"
    assert time.monotonic() - started < 2


def test_query_engine_silent_before_the_first_token_is_504(
    client: Client, engine: FakeEngine
) -> None:
    engine.script = saying(first_after=5)
    answered = client.post("/query", QUESTION)
    assert (answered.status, answered.error()["code"]) == (504, "engine_silent")


@pytest.mark.parametrize("path", ["/query", "/query/stream"])
@pytest.mark.parametrize("phase", ["before the head", "before a token", "between tokens"])
def test_client_gone_closes_the_engine_within_a_second(
    client: Client, app: Edge, engine: FakeEngine, path: str, phase: str
) -> None:
    async def script(exchange: Exchange) -> None:
        if phase != "before the head":
            await exchange.head()
        if phase == "between tokens":
            await exchange.send(delta("a"))
        await exchange.until_gone()

    engine.script = script
    before = client.metric("rag_requests_total", endpoint=path, outcome="client_gone")
    stream = Stream(client, path)
    eventually(lambda: len(engine.chats) == 1)
    time.sleep(0.15)
    left = time.monotonic()
    stream.close()
    eventually(lambda: engine.chats[0].gone_at is not None)
    assert engine.chats[0].gone_at - left < 1
    eventually(
        lambda: (
            client.metric("rag_requests_total", endpoint=path, outcome="client_gone") == before + 1
        )
    )
    assert open_streams(app) == 0


def test_client_gone_after_the_commit_closes_the_engine(
    client: Client, app: Edge, engine: FakeEngine
) -> None:
    engine.script = saying(["a"] * 200, every=0.05)
    stream = Stream(client)
    assert stream.read().readline() == b"id: 1\n"
    stream.close()
    eventually(lambda: engine.chats[0].gone_at is not None, within_s=2)
    eventually(lambda: open_streams(app) == 0)


def drive(answer: StreamedAnswer | PlainAnswer, *, leave_after: float | None = None) -> list[dict]:
    """Call an ASGI response by hand; the client leaves after a while, or stays."""
    sent: list[dict] = []

    async def receive() -> dict:
        if leave_after is None:
            await asyncio.Event().wait()
        await asyncio.sleep(leave_after or 0)
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        sent.append(message)

    asyncio.run(asyncio.wait_for(answer({"type": "http"}, receive, send), 5))
    return sent


def record() -> Record:
    return Record(request_id="r", started=time.monotonic())


async def scripted(*steps: Event | float | Exception) -> AsyncGenerator[Event]:
    for step in steps:
        if isinstance(step, float):
            await asyncio.sleep(step)
        elif isinstance(step, Exception):
            raise step
        else:
            yield step


def test_stream_silence_is_filled_with_comments() -> None:
    events = scripted(Sources([]), Token("a"), 0.35, DONE_EVENT)
    sent = drive(StreamedAnswer(events, record(), Drain(), commit_s=0.05, heartbeat_s=0.1))
    body = b"".join(message.get("body", b"") for message in sent)
    assert 2 <= body.count(b": keep-alive\n\n") <= 3
    assert body.endswith(b"\n\n")


def test_stream_no_event_at_all_still_commits_in_time() -> None:
    events = scripted(0.2, Sources([]), Token("a"), DONE_EVENT)
    sent = drive(StreamedAnswer(events, record(), Drain(), commit_s=0.05))
    assert sent[0]["status"] == 200
    assert sent[1]["body"] == b": keep-alive\n\n"
    assert [frame.event for frame in frames(b"".join(m["body"] for m in sent[1:]))] == [
        "sources", "token", "done",
    ]  # fmt: skip


@pytest.mark.parametrize("cls", [PlainAnswer, StreamedAnswer])
def test_client_gone_closes_the_generator_once(cls: type) -> None:
    closed = []

    async def events() -> AsyncGenerator[Event]:
        try:
            yield Sources([])
            await asyncio.sleep(10)
        finally:
            await asyncio.sleep(0.05)  # an await on the way out must be allowed to finish
            closed.append("closed")

    noted = record()
    extra = {"commit_s": 5.0} if cls is StreamedAnswer else {}
    sent = drive(cls(events(), noted, Drain(), **extra), leave_after=0.1)
    assert closed == ["closed"]
    assert sent == []
    assert noted.outcome == "client_gone"


@pytest.mark.parametrize("cls", [PlainAnswer, StreamedAnswer])
def test_answer_bug_before_the_first_byte_is_500_without_its_text(cls: type) -> None:
    extra = {"commit_s": 5.0} if cls is StreamedAnswer else {}
    noted = record()
    sent = drive(cls(scripted(Sources([]), ValueError("secret")), noted, Drain(), **extra))
    assert sent[0]["status"] == 500
    assert b"secret" not in sent[1]["body"]
    assert (noted.outcome, noted.error) == ("internal_error", "internal")


def test_stream_error_after_a_token_keeps_200_and_ends_the_body() -> None:
    noted = record()
    events = scripted(Sources([]), Token("a"), EngineFailed("the engine failed to answer"))
    sent = drive(StreamedAnswer(events, noted, Drain(), commit_s=5))
    assert sent[0]["status"] == 200
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
    assert noted.outcome == "engine_error"


def test_client_gone_while_send_blocks_closes_the_generator() -> None:
    closed = []

    async def events() -> AsyncGenerator[Event]:
        try:
            while True:
                yield Token("a" * 1000)
        finally:
            closed.append("closed")

    async def receive() -> dict:
        await asyncio.sleep(0.1)
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    answer = StreamedAnswer(events(), record(), Drain(), commit_s=5)
    asyncio.run(asyncio.wait_for(answer({"type": "http"}, receive, send), 5))
    assert closed == ["closed"]
