"""The embedded default for real: Valkey, llama.cpp, MiniLM, a question, and no orphans."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from api.embedded.children import ledger_socket
from tests.support.cli import started
from tests.support.harness import Client, frames, text_of
from tests.support.ports import free_port
from tests.support.waiting import eventually


@contextmanager
def running(index_dir: Path, *arguments: str) -> Iterator[tuple[Client, subprocess.Popen[bytes]]]:
    """Run `ragrelay …` on a free port until the block ends."""
    port = free_port()
    variables = {"API_PORT": str(port), "RETRIEVAL_INDEX_DIR": str(index_dir)}
    with started(*arguments, **variables) as process:
        yield Client(port), process


def is_ready(client: Client) -> bool:
    try:
        checks = client.get("/health/ready").json()["checks"]
    except (ConnectionError, OSError):
        return False
    return all(check["status"] == "ok" for check in checks.values())


def descendants(pid: int) -> set[int]:
    """Return every process below `pid`, from /proc or ps."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    parents = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    found: set[int] = {pid}
    while more := {child for child, parent in parents if parent in found} - found:
        found |= more
    return found - {pid}


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, subprocess.Popen]]:
    folder = tmp_path_factory.mktemp("embedded")
    pages = folder / "pages"
    pages.mkdir()
    (pages / "lima.md").write_text("# Peru\n\nLima is the capital of Peru.")
    (pages / "tea.md").write_text("# Tea\n\nGreen tea is brewed at eighty degrees.")
    for name in ("cache", "ledger"):  # as one that was killed leaves them
        socket = Path(ledger_socket(folder / "index").removeprefix("unix://"))
        socket.with_stem(name).touch()
    with running(folder / "index", "up", str(pages)) as started:
        eventually(lambda: is_ready(started[0]), within_s=120)
        yield started


def test_embedded_start_warns_of_nothing(embedded) -> None:
    _, process = embedded
    os.set_blocking(process.stderr.fileno(), False)
    logged = [json.loads(line) for line in process.stderr.read().splitlines() if line[:1] == b"{"]
    assert "index opened" in [line["event"] for line in logged]
    assert [line for line in logged if line["level"] != "info"] == []


def test_embedded_question_is_answered_by_the_real_engine(embedded) -> None:
    client, _ = embedded
    asked = {"query": "What is the capital of Peru?", "temperature": 0}
    answered = client.post("/query/stream", asked)
    stream = frames(answered.body)
    assert answered.status == 200
    assert stream[0].event == "sources"
    assert stream[0].data["sources"][0]["doc_id"] == "lima.md"
    assert stream[-1].event == "done"
    assert "Lima" in text_of(stream)
    facts = stream[-1].data
    assert (facts["engine"], facts["model"]) == ("embedded", "SmolLM2-135M-Instruct")
    assert facts["usage"]["estimated"] is False
    assert facts["usage"]["prompt_tokens"] > 50


def test_embedded_plain_answer_has_sources_and_usage(embedded) -> None:
    client, _ = embedded
    body = client.post("/query", {"query": "How hot is green tea brewed?", "max_tokens": 12}).json()
    assert body["sources"][0]["doc_id"] == "tea.md"
    assert 0 < body["usage"]["completion_tokens"] <= 12


def test_embedded_client_gone_frees_the_engine(embedded) -> None:
    from tests.support.harness import Stream

    client, _ = embedded
    body = {"query": "What is the capital of Peru?", "max_tokens": 1024, "temperature": 2.0}
    with Stream(client, body=body) as stream:
        assert stream.read().status == 200
    eventually(lambda: client.metric("rag_engine_in_flight") == 0, within_s=2)
    gone = client.metric("rag_requests_total", outcome="client_gone")
    assert gone >= 1


def test_embedded_second_one_on_the_same_index_is_refused(embedded, tmp_path: Path) -> None:
    client, _ = embedded
    index_dir = Path(client.get("/health/stats").json() and _index_dir_of(embedded))
    with running(index_dir, "serve") as (_, second):
        code = second.wait(60)
        assert code != 0
        assert b"another ragrelay" in (second.stderr.read() if second.stderr else b"")


def _index_dir_of(embedded) -> str:
    _, process = embedded
    environ = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    return (
        next(v for v in environ if v.startswith(b"RETRIEVAL_INDEX_DIR=")).split(b"=", 1)[1].decode()
    )


@pytest.mark.parametrize("child", ["redis_cache", "redis_ledger", "engine"])
def test_embedded_child_killed_is_restarted_and_shown(embedded, child: str) -> None:
    client, process = embedded

    def state() -> dict:
        children = client.get("/health/stats").json()["children"]
        return next(entry for entry in children if entry["name"] == child)

    before = state()
    victims = descendants(before["pid"])
    assert victims
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: state()["restarts"] == before["restarts"] + 1, within_s=10)
    assert state()["last_exit"] != 0
    eventually(lambda: is_ready(client), within_s=60)


def test_embedded_guard_killed_takes_its_child_along(embedded) -> None:
    client, _ = embedded
    states = client.get("/health/stats").json()["children"]
    guard = next(entry["pid"] for entry in states if entry["name"] == "redis_cache")
    below = descendants(guard)
    os.kill(guard, signal.SIGKILL)
    eventually(lambda: not any(is_alive(pid) for pid in below))
    eventually(lambda: is_ready(client), within_s=30)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_embedded_stopped_in_any_way_leaves_no_orphan(
    index_dir: Path, tmp_path: Path, how: signal.Signals
) -> None:
    mine = tmp_path / "index"
    mine.mkdir()
    for name in ("CURRENT", "generations"):
        (mine / name).symlink_to(index_dir / name)
    with running(mine, "serve") as (client, process):
        eventually(lambda: is_ready(client), within_s=120)
        below = descendants(process.pid)
        assert len(below) == 6  # three guards, three children
        started = time.monotonic()
        process.send_signal(how)
        code = process.wait(20)
        assert time.monotonic() - started < 10
        assert code == {signal.SIGTERM: 0, signal.SIGINT: 0, signal.SIGKILL: -9}[how]
        eventually(lambda: not any(is_alive(pid) for pid in below), within_s=5)


def test_embedded_logs_hold_no_question(embedded) -> None:
    client, process = embedded
    client.post("/search", {"query": "canary question"})
    os.set_blocking(process.stderr.fileno(), False)
    logged = process.stderr.read() or b""
    assert b"canary" not in logged
    requests = [json.loads(line) for line in logged.splitlines() if b'"request"' in line]
    assert requests
    assert {"request_id", "endpoint", "status", "outcome", "ms", "stages_ms"} <= set(requests[-1])
