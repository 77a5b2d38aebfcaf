"""A serving process that is killed in the middle of a build: nothing acknowledged is lost."""

from pathlib import Path

from tests.support.documents import add, alone, ended, searched, served
from tests.support.engine import FakeEngine
from tests.support.waiting import eventually

MANY = [{"id": f"d{n}", "text": f"Owl number {n} hunts at night. " * 12} for n in range(100)]


def test_server_killed_in_a_build_leaves_the_old_and_all_changes(
    engine: FakeEngine, tmp_path: Path
) -> None:
    index_dir = tmp_path / "index"
    with alone(engine, index_dir) as (client, process):
        old = add(client, {"id": "first", "text": "Bats hang upside down."})["generation"]
        answered = client.post("/documents", {"documents": MANY})
        assert answered.status == 202
        path = answered.headers["location"]
        eventually(lambda: client.get(path).json()["job"]["stage"] == "embed", within_s=60)
        process.kill()
        process.wait(20)
    assert (index_dir / "CURRENT").read_text().strip() == old

    with served(engine, index_dir) as (client, _):
        eventually(lambda: client.get("/health/ready").status == 200, within_s=60)
        assert searched(client, "Who hangs upside down?")[0] == "first"
        job = ended(client, answered)
        assert (job["state"], len(job["documents"])) == ("done", len(MANY))
        assert "d99" in searched(client, "Owl number 99")
        assert len(client.get("/documents?limit=1000").json()["documents"]) == len(MANY) + 1
