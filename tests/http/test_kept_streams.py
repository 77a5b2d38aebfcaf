"""Resumable streams: byte-exact from where they were cut, made and paid once, private, bounded."""

import asyncio
import http.client
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.admission.key_store import KeyStore
from api.admission.keys import KeySpec
from api.answering.events import Event, Sources, Token
from api.errors import EngineFailed, Invalid, NotFound, RagError
from api.http.edge import Edge
from api.http.kept_streams import MAX_BYTES, KeptStream, KeptStreams, event_number
from api.runtime.drain import Drain
from api.settings.groups import Secret
from api.stores.calls import RedisCalls
from tests.support.fake_engine import DONE, FakeEngine, delta, event, saying, sending
from tests.support.harness import (
    QUESTION,
    Answered,
    Client,
    eventually,
    frames,
    live,
    settings_for,
    text_of,
)

RESUMABLE = QUESTION | {"resume": True}
JSON = {"Content-Type": "application/json"}
NO_HEADERS: dict[str, str] = {}


@pytest.fixture(scope="module")
def _resuming(_engine: FakeEngine, index_dir: Path) -> Iterator[tuple[Client, Edge]]:
    limits = {"commit_seconds": 0.4, "first_token_seconds": 5.0, "token_seconds": 5.0}
    settings = settings_for(_engine.url, index_dir, engine=limits)
    with live(settings) as served:
        yield served


@pytest.fixture
def resuming(_resuming: tuple[Client, Edge], engine: FakeEngine) -> Client:
    return _resuming[0]


@pytest.fixture
def app(_resuming: tuple[Client, Edge]) -> Edge:
    return _resuming[1]


def whole_frames(received: bytes) -> bytes:
    """Drop what a cut has left of a frame."""
    end = received.rfind(b"\n\n")
    return received[: end + 2] if end >= 0 else b""


class Reader:
    """A client that reads a stream bit by bit, keeps whole frames, and may leave in between."""

    def __init__(self, client: Client, headers: dict[str, str] = NO_HEADERS) -> None:
        self.client = client
        self.headers = headers
        self.resume_id = ""
        self.received = b""
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def ask(self, body: object = RESUMABLE) -> None:
        self._open("POST", "/query/stream", json.dumps(body).encode(), self.headers | JSON)
        self.resume_id = self.response.headers["X-Resume-ID"]

    def resume(self) -> int:
        """Leave, drop what is not whole, ask for the rest, and return the status."""
        self.leave()
        self.received = whole_frames(self.received)
        known = frames(self.received)
        last = {"Last-Event-ID": str(known[-1].id)} if known else {}
        return self._open("GET", f"/query/stream/{self.resume_id}", None, self.headers | last)

    def read(self, n_bytes: int) -> None:
        while n_bytes > 0 and (chunk := self.response.read1(n_bytes)):
            self.received += chunk
            n_bytes -= len(chunk)

    def leave(self) -> None:
        if self._connection is not None:
            self.response.close()
            self._connection.close()

    def _open(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> int:
        self._connection = http.client.HTTPConnection("127.0.0.1", self.client.port, timeout=20)
        self._connection.request(method, path, body, headers)
        self.response = self._connection.getresponse()
        return self.response.status


ALL = 1 << 30


def taken_up(client: Client, resume_id: str, last: object = None) -> Answered:
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    return client.get(f"/query/stream/{resume_id}", headers)


def test_stream_cut_at_any_byte_and_resumed_is_the_same(
    resuming: Client, engine: FakeEngine
) -> None:
    engine.script = saying(["Pa", "ris\u2028 ", "é\n\n: x", ' "is" it.'])
    with Reader(resuming) as reader:
        reader.ask()
        reader.read(ALL)
        whole, resume_id = reader.received, reader.resume_id
    rest = {n: taken_up(resuming, resume_id, n) for n in range(len(frames(whole)) + 1)}
    assert [answered.status for answered in rest.values()] == [200] * 8 + [204]
    for cut in range(len(whole) + 1):
        kept = whole_frames(whole[:cut])
        assert kept + rest[len(frames(kept))].body == whole, cut
    assert taken_up(resuming, resume_id).body == whole
    assert len(engine.chats) == 1


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 1500), min_size=1, max_size=4))
def test_stream_cut_while_it_is_made_and_resumed_is_whole(
    _resuming: tuple[Client, Edge], _engine: FakeEngine, cuts: list[int]
) -> None:
    client = _resuming[0]
    pieces = [f"piece {n} é\u2028;" for n in range(12)]
    _engine.script = saying(pieces, every=0.01)
    _engine.calls.clear()
    with Reader(client) as reader:
        reader.ask()
        for cut in cuts:
            reader.read(cut)
            if reader.resume() == 204:
                break
        reader.read(ALL)
        reader.leave()
        stream = frames(reader.received)
        assert [frame.id for frame in stream] == list(range(1, 16))
        assert text_of(stream) == "".join(pieces)
        assert stream[-1].event == "done"
        assert len(_engine.chats) == 1


def test_stream_resumed_goes_on_live_and_is_paid_once(
    resuming: Client, engine: FakeEngine, app: Edge
) -> None:
    engine.script = saying([f"{n} " for n in range(20)], every=0.05)
    spent = resuming.metric("rag_cost_eur_total")
    with Reader(resuming) as reader:
        reader.ask()
        reader.read(700)
        reader.leave()
        eventually(
            lambda: resuming.metric("rag_requests_total", outcome="client_gone", status="200") >= 1
        )
        assert engine.chats[0].gone_at is None
        assert app.service.metrics.registry.get_sample_value("rag_open_streams") == 1
        reader.resume()
        reader.read(ALL)
        stream = frames(reader.received)
        assert text_of(stream) == "".join(f"{n} " for n in range(20))
        assert stream[-1].data["cost_eur"] > 0
        eventually(
            lambda: (
                resuming.metric("rag_cost_eur_total") - spent
                == pytest.approx(stream[-1].data["cost_eur"])
            )
        )
        assert len(engine.chats) == 1
    endpoint = "/query/stream/{resume_id}"
    eventually(lambda: resuming.metric("rag_requests_total", endpoint=endpoint, outcome="ok") >= 1)


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


def test_stream_read_by_two_gives_both_the_same(resuming: Client, engine: FakeEngine) -> None:
    engine.script = saying([f"{n} " for n in range(10)], every=0.05)
    with Reader(resuming) as reader:
        reader.ask()
        with ThreadPoolExecutor(2) as pool:
            others = list(pool.map(lambda _: taken_up(resuming, reader.resume_id).body, range(2)))
        reader.read(ALL)
        assert others == [reader.received] * 2
        assert len(engine.chats) == 1


def test_stream_that_broke_off_breaks_off_the_same_again(
    resuming: Client, engine: FakeEngine
) -> None:
    engine.script = sending(delta("Paris"), event({"error": {"message": "CUDA"}}), DONE)
    with Reader(resuming) as reader:
        reader.ask()
        reader.read(ALL)
        assert [frame.event for frame in frames(reader.received)] == ["sources", "token", "error"]
        for last in (0, 1, 2):
            again = taken_up(resuming, reader.resume_id, last)
            assert again.status == 200
            assert reader.received.endswith(again.body)
            assert frames(again.body)[-1].data["error"]["code"] == "engine_error"
        assert taken_up(resuming, reader.resume_id, 3).status == 204
        assert len(engine.chats) == 1


def test_stream_refused_before_a_token_keeps_its_status(
    resuming: Client, engine: FakeEngine
) -> None:
    engine.script = sending(status=429)
    answered = resuming.post("/query/stream", RESUMABLE)
    assert (answered.status, answered.error()["code"]) == (429, "engine_overloaded")
    again = taken_up(resuming, answered.headers["x-resume-id"])
    assert [frame.event for frame in frames(again.body)] == ["sources", "error"]
    assert frames(again.body)[-1].data["error"]["code"] == "engine_overloaded"
    assert len(engine.chats) == 1


def test_stream_late_first_token_is_committed_and_resumable(
    resuming: Client, engine: FakeEngine
) -> None:
    engine.script = saying(["a"], first_after=1.0)
    with Reader(resuming) as reader:
        reader.ask()
        reader.read(40)
        reader.leave()
        reader.resume()
        reader.read(ALL)
        events = [frame.event for frame in frames(reader.received)]
        assert events == ["sources", "token", "citation", "done"]


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "99", "9" * 30, "١"])
def test_last_event_id_of_no_event_is_invalid(
    resuming: Client, engine: FakeEngine, last: str
) -> None:
    resume_id = resuming.post("/query/stream", RESUMABLE).headers["x-resume-id"]
    raw = last.encode().decode("latin-1")
    answered = taken_up(resuming, resume_id, raw)
    assert (answered.status, answered.error()["code"]) == (422, "invalid")


def test_stream_without_resume_has_no_id_and_closes_the_engine(
    resuming: Client, engine: FakeEngine, app: Edge
) -> None:
    engine.script = saying(["a"] * 400, every=0.05)
    for body in (QUESTION, QUESTION | {"resume": False}):
        connection = http.client.HTTPConnection("127.0.0.1", resuming.port, timeout=20)
        connection.request("POST", "/query/stream", json.dumps(body), JSON)
        response = connection.getresponse()
        assert "X-Resume-ID" not in response.headers
        left = time.monotonic()
        response.close()
        connection.close()
        eventually(lambda: engine.chats[-1].gone_at is not None)
        assert (engine.chats[-1].gone_at or 0) - left < 1


def test_resume_belongs_to_the_stream_alone(resuming: Client) -> None:
    answered = resuming.post("/query", RESUMABLE)
    assert answered.status == 422
    assert "resume: no such field" in answered.error()["message"]


def make_keys(app: Edge, *tenants: str) -> list[str]:
    calls: RedisCalls = app.service.door._counting._calls
    store = KeyStore(calls)

    async def create() -> list[str]:
        specs = [KeySpec(name=f"{tenant}-key", tenant=tenant) for tenant in tenants]
        return [(await store.create(spec)).key.text() for spec in specs]

    loop = app.service.engines.all[0]._session._loop
    return asyncio.run_coroutine_threadsafe(create(), loop).result(20)


def test_two_callers_cannot_read_each_others_stream(index_dir: Path, engine: FakeEngine) -> None:
    auth = {"enabled": True, "api_key": Secret("settings-key-0123456789-abcdef")}
    with live(settings_for(engine.url, index_dir, auth=auth)) as (client, app):
        acme, other, third = make_keys(app, "acme", "other", "acme")
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
    limit = {"enabled": True, "stream_per_minute": 1}
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
            loop = app.service.engines.all[0]._session._loop
            asyncio.run_coroutine_threadsafe(
                drain.finish(0.2, is_hurried=lambda: False), loop
            ).result(20)
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


async def tokens(*texts: str, every: float = 0.0) -> AsyncGenerator[Event]:
    yield Sources([])
    for text in texts:
        await asyncio.sleep(every)
        yield Token(text)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))


async def read_all(streams: KeptStreams, kept: KeptStream, sent: int = 0) -> list[Event]:
    async with aclosing(streams.read(kept, sent)) as events:
        return [event async for event in events]


OWNER = ("public", "")


def test_streams_are_bounded_and_ended_ones_make_room() -> None:
    async def scenario() -> None:
        streams = KeptStreams(Drain(), keep_s=60, max_streams=2)
        ended = streams.keep(tokens("a"), OWNER, "r1")
        open_one = streams.keep(tokens("a", every=60), OWNER, "r2")
        assert ended is not None and open_one is not None
        await read_all(streams, ended)
        newest = streams.keep(tokens("a", every=60), OWNER, "r3")
        assert newest is not None and len(streams) == 2
        with pytest.raises(NotFound):
            streams.find(ended.id, OWNER)
        begun = tokens("a")
        assert streams.keep(begun, OWNER, "r4") is None
        assert [event async for event in begun] == [Sources([]), Token("a")]
        await streams.close()
        assert len(streams) == 0

    run(scenario)


def test_ended_stream_that_is_read_makes_no_room() -> None:
    async def scenario() -> None:
        streams = KeptStreams(Drain(), keep_s=60, max_streams=1)
        kept = streams.keep(tokens("a"), OWNER, "r")
        assert kept is not None
        async with aclosing(streams.read(kept, 0)) as reading:
            await anext(reading)
            await asyncio.sleep(0.05)
            assert kept.has_ended
            assert streams.keep(tokens(), OWNER, "r") is None
        assert streams.keep(tokens(), OWNER, "r") is not None
        await streams.close()

    run(scenario)


def test_stream_longer_than_its_bound_breaks_off() -> None:
    async def scenario() -> None:
        streams = KeptStreams(Drain(), keep_s=60)
        piece = "é" * 50_000
        kept = streams.keep(tokens(*[piece] * 20), OWNER, "r")
        assert kept is not None
        got = []
        with pytest.raises(EngineFailed):
            async for one in streams.read(kept, 0):
                got.append(one)
        assert len(got) == 1 + MAX_BYTES // (2 * 50_000 + 100)
        await streams.close()

    run(scenario)


def test_stream_nobody_ever_reads_is_forgotten() -> None:
    closed = []

    async def events() -> AsyncGenerator[Event]:
        try:
            yield Sources([])
            await asyncio.sleep(60)
        finally:
            closed.append("closed")

    async def scenario() -> None:
        streams = KeptStreams(Drain(), keep_s=0.05)
        kept = streams.keep(events(), OWNER, "r")
        assert kept is not None and kept.task is not None
        await asyncio.wait([kept.task], timeout=10)
        assert closed == ["closed"]
        assert len(streams) == 0

    run(scenario)


def test_stream_that_is_read_outlives_its_time() -> None:
    async def scenario() -> None:
        streams = KeptStreams(Drain(), keep_s=0.05)
        kept = streams.keep(tokens("a", "b", "c", every=0.1), OWNER, "r")
        assert kept is not None
        assert len(await read_all(streams, kept)) == 4
        assert streams.find(kept.id, OWNER) is kept
        await streams.close()

    run(scenario)


def test_reader_of_a_stopped_stream_is_told() -> None:
    async def scenario() -> None:
        streams = KeptStreams(Drain(), keep_s=60)
        kept = streams.keep(tokens("a", every=60), OWNER, "r")
        assert kept is not None
        reading = asyncio.create_task(read_all(streams, kept))
        await asyncio.sleep(0.05)
        await streams.close()
        with pytest.raises(RagError):
            await reading

    run(scenario)


def test_event_number_is_that_of_the_header() -> None:
    assert (event_number(None), event_number(""), event_number("17")) == (0, 0, 17)
    with pytest.raises(Invalid):
        event_number("seventeen")
