"""The database killed, frozen, locked or silent while questions are answered: none fails."""

import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from api.log.database import Database
from api.settings.types import Secret
from tests.support.engine import FakeEngine
from tests.support.harness import QUESTION, Client, live, settings_for
from tests.support.servers import Postgres, postgres, silent_port
from tests.support.waiting import eventually

ASKERS = 3


@pytest.fixture(scope="module")
def victim() -> Iterator[Postgres]:
    """A server that nobody else uses."""
    with postgres() as server:
        yield server


class Askers:
    """Ask without a pause until told to stop; `statuses` are the answers'."""

    def __init__(self, client: Client) -> None:
        self.statuses: list[int] = []
        self._client = client
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(ASKERS)]

    def _ask(self) -> None:
        while not self._stop.is_set():
            self.statuses.append(self._client.post("/query", QUESTION).status)

    def more(self, n: int) -> None:
        """Wait for so many more answers."""
        wanted = len(self.statuses) + n
        eventually(lambda: len(self.statuses) >= wanted, within_s=60)

    def __enter__(self) -> "Askers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


@contextmanager
def under_load(
    url: str, engine: FakeEngine, index_dir: Path, max_waiting: int = 10_000
) -> Iterator[tuple[Client, Askers, Any]]:
    settings = settings_for(engine.url, index_dir, database={"database_url": Secret(url)})
    with live(settings) as (client, app):
        log = app.service.log
        assert log is not None
        eventually(lambda: log.writer.is_up, within_s=30)
        log.writer._max_waiting = max_waiting
        with Askers(client) as askers:
            askers.more(10)
            yield client, askers, log.writer
        assert set(askers.statuses) == {200}
        eventually(lambda: log.writer.is_up and log.writer.n_waiting == 0, within_s=60)
        assert log.writer.written + log.writer.dropped == len(askers.statuses)


def migrated(server: Postgres, name: str) -> str:
    import asyncio

    url = server.create(name)

    async def migrate() -> None:
        database = Database(url, "unused")
        await database.migrate()
        await database.close()

    asyncio.run(migrate())
    return url


def test_database_killed_under_load_fails_no_answer_and_loses_no_row(
    victim: Postgres, engine: FakeEngine, index_dir: Path
) -> None:
    with under_load(migrated(victim, "killed"), engine, index_dir) as (client, askers, writer):
        victim.kill()
        eventually(lambda: client.metric("rag_database_up") == 0, within_s=30)
        askers.more(20)
        assert client.get("/health/ready").status == 200
        victim.start()
        eventually(lambda: client.metric("rag_database_up") == 1, within_s=60)
    assert writer.dropped == 0


def test_database_away_for_long_costs_the_oldest_rows_and_counts_them(
    victim: Postgres, engine: FakeEngine, index_dir: Path
) -> None:
    url = migrated(victim, "away")
    with under_load(url, engine, index_dir, max_waiting=5) as (client, askers, writer):
        victim.kill()
        eventually(lambda: client.metric("rag_database_up") == 0, within_s=30)
        askers.more(20)
        assert client.metric("rag_log_waiting") <= 5 + 200  # and a batch in hand
        assert client.metric("rag_log_dropped_total") > 0
        victim.start()


def test_database_frozen_under_load_fails_no_answer(
    victim: Postgres, engine: FakeEngine, index_dir: Path, monkeypatch: Any
) -> None:
    with under_load(migrated(victim, "frozen"), engine, index_dir) as (client, askers, writer):
        victim.signal(signal.SIGSTOP)
        try:
            eventually(lambda: client.metric("rag_database_up") == 0, within_s=60)
            askers.more(20)
            asked = client.get("/analytics/summary")
            assert (asked.status, asked.error()["code"]) == (503, "database_down")
        finally:
            victim.signal(signal.SIGCONT)
    assert writer.dropped == 0


def test_service_stops_in_time_while_its_database_is_frozen(
    victim: Postgres, engine: FakeEngine, index_dir: Path
) -> None:
    url = migrated(victim, "stopping")
    settings = settings_for(engine.url, index_dir, database={"database_url": Secret(url)})
    try:
        with live(settings) as (client, app):  # which fails when it does not stop in 20 s
            log = app.service.log
            assert log is not None
            eventually(lambda: log.writer.is_up, within_s=30)
            victim.signal(signal.SIGSTOP)
            assert client.post("/query", QUESTION).status == 200
        assert (log.writer.written, log.writer.dropped) == (0, 1)
    finally:
        victim.signal(signal.SIGCONT)


def test_sqlite_locked_by_another_process_fails_no_answer(
    tmp_path: Path, engine: FakeEngine, index_dir: Path
) -> None:
    path = tmp_path / "log.sqlite"
    with under_load(f"sqlite:///{path}", engine, index_dir) as (client, askers, writer):
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        eventually(lambda: client.metric("rag_database_up") == 0, within_s=30)
        askers.more(20)
        other.rollback()
        other.close()
    assert writer.dropped == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_sqlite_that_cannot_be_written_is_told(
    tmp_path: Path, engine: FakeEngine, index_dir: Path
) -> None:
    tmp_path.chmod(0o500)
    settings = settings_for(
        engine.url, index_dir, database={"database_url": Secret(f"sqlite:///{tmp_path}/x/y")}
    )
    with live(settings) as (client, _):
        assert client.post("/query", QUESTION).status == 200
        assert client.get("/health/stats").json()["checks"]["database"]["status"] == "down"


def test_sqlite_in_no_folder_is_told_and_answers_go_on(
    tmp_path: Path, engine: FakeEngine, index_dir: Path
) -> None:
    (tmp_path / "file").write_text("")
    settings = settings_for(
        engine.url, index_dir, database={"database_url": Secret(f"sqlite:///{tmp_path}/file/x")}
    )
    with live(settings) as (client, _):
        assert client.post("/query", QUESTION).status == 200
        assert client.get("/health/stats").json()["checks"]["database"]["status"] == "down"
        assert client.get("/analytics/summary").status == 503


def test_database_that_never_speaks_does_not_hold_up_the_start(
    engine: FakeEngine, index_dir: Path
) -> None:
    with silent_port() as port:
        url = Secret(f"postgresql://u@127.0.0.1:{port}/x")
        with live(settings_for(engine.url, index_dir, database={"database_url": url})) as (
            client, _,
        ):  # fmt: skip
            assert client.post("/query", QUESTION).status == 200
            assert client.metric("rag_database_up") == 0
