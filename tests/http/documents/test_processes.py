"""The library behind the server: restarts, two processes, mappings, a folder that is locked."""

import threading
from functools import partial
from pathlib import Path

from api.http.edge import Edge
from retrieval.library.library import Library
from tests.http.documents.countries import FRANCE
from tests.support.documents import add, ended, form, searched, served
from tests.support.engine import FakeEngine
from tests.support.harness import Client
from tests.support.waiting import eventually


def test_restart_builds_what_was_left_and_keeps_jobs(engine: FakeEngine, tmp_path: Path) -> None:
    index_dir = tmp_path / "index"
    slow = {"window_seconds": 5}
    with served(engine, index_dir, ingest=slow) as (client, _):
        answered = client.post("/documents", {"documents": [FRANCE]})
        body, headers = form(("files", "peru.txt", b"Lima is the capital of Peru."))
        upload = client.request("POST", "/documents", body, headers)
        assert client.get(answered.headers["location"]).json()["job"]["state"] == "queued"
    with served(engine, index_dir) as (client, _):
        assert ended(client, answered)["state"] == ended(client, upload)["state"] == "done"
        assert set(searched(client, "the capital")) == {"france", "peru.txt"}


def follows(client: Client, doc_ids: set[str]) -> bool:
    """Return whether a server is ready and finds all of these."""
    ready = client.get("/health/ready").status == 200
    return ready and set(searched(client, "the owl")) == doc_ids


def test_two_processes_share_library_deletions_and_generations(
    engine: FakeEngine, tmp_path: Path
) -> None:
    index_dir = tmp_path / "index"
    with served(engine, index_dir) as (one, _), served(engine, index_dir) as (two, _):
        jobs = [
            (
                client,
                client.post("/documents", {"documents": [{"id": f"{n}-{m}", "text": f"owl {m}"}]}),
            )
            for m in range(4)
            for n, client in enumerate((one, two))
        ]
        assert all(ended(client, job)["state"] == "done" for client, job in jobs)
        everything = {f"{n}-{m}" for n in range(2) for m in range(4)}
        for client in (one, two):
            eventually(partial(follows, client, everything), within_s=20)
        assert one.request("DELETE", "/documents/1-3").status == 200
        assert "1-3" not in searched(two, "the owl")
        assert two.get("/documents/1-3").status == 404


def test_swaps_leave_no_mapping_behind(client: Client) -> None:
    def mapped() -> int:
        maps = Path("/proc/self/maps").read_text()
        return sum("/generations/" in line for line in maps.splitlines())

    add(client, {"id": "swap", "text": "edition 0"})
    before = mapped()
    for n in range(1, 9):
        add(client, {"id": "swap", "text": f"edition {n}"})
    eventually(lambda: mapped() <= before, within_s=10)


def test_folder_that_cannot_be_written_is_503_and_search_goes_on(
    client: Client, _open: tuple[Client, Edge]
) -> None:
    index_dir = Path(_open[1].service.settings.retrieval.index_dir)
    holder, done = threading.Event(), threading.Event()

    def hold() -> None:
        other = Library(index_dir)
        with other.change():
            holder.set()
            done.wait(30)
        other.close()

    thread = threading.Thread(target=hold)
    thread.start()
    assert holder.wait(5)
    try:
        answered = client.post("/documents", {"documents": [FRANCE]})
        assert (answered.status, answered.error()["code"]) == (503, "index_unwritable")
        assert int(answered.headers["retry-after"]) >= 1
        assert searched(client, "green tea") == ["stays"]
    finally:
        done.set()
        thread.join(10)
    assert add(client, FRANCE)["state"] == "done"
