"""SIGTERM while answers are open: a real process, real signals."""

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.cli import is_ready, serving
from tests.support.engine import FakeEngine, saying
from tests.support.harness import QUESTION, Stream, frames
from tests.support.waiting import eventually


def ends(stream: Stream) -> tuple[str, dict]:
    """Return the last event of a stream and its data."""
    last = frames(stream.read().read())[-1]
    return last.event, last.data


@pytest.mark.parametrize(
    "drain_s, expected", [("20", "done"), ("0.3", "error")], ids=["in time", "too late"]
)
def test_sigterm_lets_answers_finish_or_tells_them(
    engine: FakeEngine, index_dir: Path, drain_s: str, expected: str
) -> None:
    engine.script = saying(["tick "] * 30, every=0.1)
    with serving(engine, index_dir, API_DRAIN_SECONDS=drain_s) as (process, client):
        streams = [Stream(client) for _ in range(50)]
        eventually(lambda: len(engine.chats) == 50, within_s=30)
        process.send_signal(signal.SIGTERM)
        refused = client.post("/query", QUESTION)
        assert (refused.status, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert client.get("/health/ready").status == 503
        assert client.get("/health").status == 200
        with ThreadPoolExecutor(50) as pool:
            endings = list(pool.map(ends, streams))
        assert {event for event, _ in endings} == {expected}
        if expected == "error":
            errors = [data["error"] for _, data in endings]
            assert {(e["code"], e["retryable"]) for e in errors} == {("shutting_down", True)}
        assert process.wait(15) == 0
        for stream in streams:
            stream.close()


def test_sigterm_answers_a_plain_question_that_is_too_late(
    engine: FakeEngine, index_dir: Path
) -> None:
    engine.script = saying(["tick "] * 100, every=0.1)
    with serving(engine, index_dir, API_DRAIN_SECONDS="0.3") as (process, client):
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(client.post, "/query", QUESTION)
            eventually(lambda: len(engine.chats) == 1, within_s=30)
            process.send_signal(signal.SIGTERM)
            answered = asked.result(20)
        assert (answered.status, answered.json()["error"]["code"]) == (503, "shutting_down")
        assert process.wait(15) == 0


def test_second_signal_exits_at_once(engine: FakeEngine, index_dir: Path) -> None:
    engine.script = saying(["tick "] * 600, every=0.1)
    with serving(engine, index_dir, API_DRAIN_SECONDS="60") as (process, client):
        with Stream(client):
            eventually(lambda: len(engine.chats) == 1, within_s=30)
            process.send_signal(signal.SIGTERM)
            eventually(lambda: not is_ready(client))
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            assert time.monotonic() - started < 30
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", client.port), timeout=1)
