"""Generations over HTTP, and documents on the command line."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from api.cli.main import cli
from api.http.edge import Edge
from tests.support.documents import add, searched, served
from tests.support.engine import FakeEngine
from tests.support.harness import Client
from tests.support.waiting import eventually


@pytest.fixture
def running(engine: FakeEngine, tmp_path: Path) -> Iterator[tuple[Client, Edge]]:
    with served(engine, tmp_path / "index") as running:
        yield running


def run(index_dir: Path, *arguments: str, code: int = 0) -> str:
    """What the command prints; it must end with this exit code."""
    done = CliRunner().invoke(cli, arguments, env={"RETRIEVAL_INDEX_DIR": str(index_dir)})
    assert done.exit_code == code, (arguments, done.output, done.exception)
    return done.output


def test_rollback_serves_the_one_before_and_the_next_change_goes_on(running) -> None:
    client, _ = running
    first = add(client, {"id": "a", "text": "Owls hunt mice."}, {"id": "b", "text": "Owls sleep."})
    second = add(client, {"id": "c", "text": "Owls fly."})
    listed = client.get("/generations").json()
    assert listed["current"] == second["generation"]
    assert [one["id"] for one in listed["generations"]] == [
        second["generation"],
        first["generation"],
    ]
    assert client.request("DELETE", "/documents/a").status == 200
    eventually(lambda: client.get("/generations").json()["current"] != second["generation"])

    # 409 until the writer has tidied up behind its new generation.
    eventually(lambda: client.post("/generations/rollback", {}).status == 200)
    assert client.get("/generations").json()["current"] == second["generation"]
    assert sorted(searched(client, "what owls do")) == ["b", "c"]
    answer = client.post("/query", {"query": "What do owls do?"}).json()
    assert answer["index_generation"] == second["generation"]
    add(client, {"id": "d", "text": "Owls hoot."})
    assert sorted(searched(client, "what owls do")) == ["b", "c", "d"]


def test_rollback_to_what_is_not_there_is_404(running) -> None:
    client, _ = running
    add(client, {"id": "a", "text": "Owls hunt mice."})
    for body in ({}, {"generation": "20200101T000000-abcdef"}, {"generation": "../.."}):
        assert client.post("/generations/rollback", body).status == 404
    assert client.post("/generations/rollback", {"other": 1}).status == 422


def test_command_line_adds_lists_deletes_rolls_back_and_verifies(tmp_path: Path) -> None:
    index_dir, pages = tmp_path / "index", tmp_path / "pages"
    pages.mkdir()
    (pages / "owls.md").write_text("# Owls\n\nOwls hunt mice.")
    (pages / "bats.txt").write_text("Bats hang upside down.")
    assert "2 documents" in run(index_dir, "index", str(pages))
    (tmp_path / "more.txt").write_text("Cats sleep all day.")
    assert "3 documents" in run(index_dir, "documents", "add", str(tmp_path / "more.txt"))
    listed = run(index_dir, "documents", "list")
    assert [line.split("\t")[0] for line in listed.splitlines()] == [
        "bats.txt",
        "more.txt",
        "owls.md",
    ]
    (pages / "bats.txt").unlink()
    assert "2 documents" in run(index_dir, "index", str(pages))  # what was added by name stays
    assert "deleted" in run(index_dir, "documents", "delete", "owls.md")
    assert (
        run(index_dir, "documents", "delete", "owls.md", code=1).strip().endswith("such document")
    )

    generations = run(index_dir, "generations", "list").splitlines()
    assert [line[0] for line in generations] == ["*", " "]
    older = generations[1].split()[0]
    assert older in run(index_dir, "generations", "rollback")
    assert "whole" in run(index_dir, "generations", "verify")
    dense = index_dir / "generations" / older / "dense.faiss"
    dense.write_bytes(dense.read_bytes()[:-1] + b"\x7f")
    assert "has changed" in run(index_dir, "generations", "verify", code=1)


def test_index_rebuild_embeds_anew_and_tells_the_overlap(tmp_path: Path) -> None:
    index_dir = tmp_path / "index"
    (tmp_path / "owls.txt").write_text("Owls hunt mice at night.")
    run(index_dir, "index", str(tmp_path / "owls.txt"))
    before = run(index_dir, "generations", "list").split()[1]
    (tmp_path / "asked.txt").write_text("What do owls hunt?\n\nWhen do they hunt?\n")
    told = run(index_dir, "index", "--rebuild", "--questions", str(tmp_path / "asked.txt"))
    assert "2 questions: 100%" in told
    after = run(index_dir, "generations", "list").split()
    assert after[0] == "*"
    assert after[1] != before
    assert before in after
    run(index_dir, "index", code=2)
    run(index_dir, "index", "--rebuild", str(tmp_path), code=2)


def test_command_line_speaks_to_a_running_server(running, tmp_path: Path) -> None:
    client, _ = running
    url = ("--url", client.url)
    (tmp_path / "owls.txt").write_text("Owls hunt mice at night.")
    told = run(tmp_path / "none", "documents", "add", str(tmp_path / "owls.txt"), *url)
    assert "1 documents: done" in told
    assert searched(client, "what owls hunt") == ["owls.txt"]
    assert run(tmp_path / "none", "documents", "list", *url).startswith("owls.txt\t24\t")
    assert "deleted" in run(tmp_path / "none", "documents", "delete", "owls.txt", *url)
    assert searched(client, "what owls hunt") == []
    assert "no such document" in run(
        tmp_path / "none", "documents", "delete", "owls.txt", *url, code=1
    )
    assert not (tmp_path / "none").exists()
    nobody = ("--url", "http://127.0.0.1:9")
    assert "no answer from" in run(tmp_path / "none", "documents", "list", *nobody, code=1)
