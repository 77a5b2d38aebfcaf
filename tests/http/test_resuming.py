"""Resumed streams: byte-exact from where they were cut, made and paid once."""

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.http.edge import Edge
from tests.http.resuming import ALL, JSON, RESUMABLE, Reader, taken_up, whole_frames
from tests.support.engine import DONE, FakeEngine, delta, event, saying, sending
from tests.support.harness import QUESTION, Client, frames, text_of
from tests.support.waiting import eventually


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
    resuming: Client, engine: FakeEngine, resuming_app: Edge
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
        assert resuming_app.service.metrics.registry.get_sample_value("rag_open_streams") == 1
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
    resuming: Client, engine: FakeEngine, resuming_app: Edge
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
