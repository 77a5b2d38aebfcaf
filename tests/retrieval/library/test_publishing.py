"""From the library to generations: what is built when, and what a crash leaves."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from retrieval.build.build import build_index
from retrieval.index.filters import EVERYTHING, View
from retrieval.index.generations import rollback
from retrieval.index.index import list_generations, open_index
from retrieval.index.tombstones import Tombstones
from retrieval.library.files import File
from retrieval.library.jobs import find_job, note_trouble, submit
from retrieval.library.library import Library
from retrieval.library.publishing import has_changes, only_publisher, publish, serving
from retrieval.library.rebuilding import overlap, rebuild, sample_questions
from retrieval.search.retriever import Retriever
from retrieval.types import Document, IndexBusy, IndexUnwritable, NoDocuments
from tests.retrieval.fakes import FakeEmbedder

ACME = View(tenant="acme")
REPO = Path(__file__).parents[3]


@pytest.fixture
def library(tmp_path):
    opened = Library(tmp_path / "index")
    yield opened
    opened.close()


@pytest.fixture
def fake() -> FakeEmbedder:
    return FakeEmbedder()


def doc(doc_id: str, text: str = "some text", tenant: str = "acme", **more) -> Document:
    return Document(doc_id=doc_id, title=doc_id, text=text, tenant=tenant, **more)


def build(library: Library, embedder: FakeEmbedder):
    return publish(library, embedder, language="english")


def found(library: Library, query: str, view: View = EVERYTHING) -> list[str]:
    """Ids of documents that a search finds by this word, as a serving process would."""
    index = open_index(library.index_dir)
    tombstones = Tombstones(library.index_dir)
    tombstones.refresh()
    index.hidden = tombstones.gone(index.manifest.seq)
    retriever = Retriever(FakeEmbedder(), index, min_similarity=1.0)
    hits = asyncio.run(retriever.retrieve(query, 50, view=view)).hits
    index.close()
    return sorted({hit.passage.doc_id for hit in hits})


def test_publish_ends_jobs_with_the_generation_that_holds_them(library, fake):
    job = submit(library, [doc("a", "owls hunt")], [File(name="b.txt", content=b"owls")], view=ACME)
    assert has_changes(library)
    report = build(library, fake)
    ended = find_job(library, job.id)
    assert (ended.state, ended.generation, ended.done) == ("done", report.generation, 2)
    assert [(one.doc_id, one.status) for one in ended.documents] == [
        ("a", "added"),
        ("b.txt", "added"),
    ]
    assert not has_changes(library)
    assert found(library, "owls") == ["a", "b.txt"]
    assert found(library, "owls", View(tenant="beta")) == []


def test_publish_of_files_that_hold_nothing_fails_the_job(library, fake):
    submit(library, [doc("a")], [], view=ACME)
    build(library, fake)
    job = submit(library, [], [File(name="b.txt", content=b"\xff")], view=ACME)
    assert has_changes(library)
    build(library, fake)
    ended = find_job(library, job.id)
    assert (ended.state, ended.error) == ("failed", "nothing could be read")
    assert not has_changes(library)


def test_publish_without_a_document_left_keeps_the_old_hidden(library, fake):
    submit(library, [doc("a", "owls hunt")], [], view=ACME)
    build(library, fake)
    library.delete("a", ACME)
    assert found(library, "owls") == []
    assert build(library, fake) is None
    assert not has_changes(library)
    assert found(library, "owls") == []


def test_deleted_and_given_again_is_found_again(library, fake):
    submit(library, [doc("a", "owls hunt"), doc("b", "mice hide")], [], view=ACME)
    build(library, fake)
    library.delete("a", ACME)
    submit(library, [doc("a", "owls hunt")], [], view=ACME)
    build(library, fake)
    assert found(library, "owls") == ["a"]


def test_document_taken_from_a_group_is_hidden_until_it_is_built(library, fake):
    staff, guest = (View(tenant="acme", groups=(g,), all_groups=False) for g in ("staff", "guest"))
    submit(library, [doc("a", "owls hunt"), doc("b", "owls", acl=("staff",))], [], view=ACME)
    build(library, fake)
    assert found(library, "owls", guest) == ["a"]
    widened = doc("b", "owls", acl=("staff", "guest"))
    submit(library, [doc("a", "owls hunt", acl=("staff",)), widened], [], view=ACME)
    assert found(library, "owls", guest) == []
    assert found(library, "owls", staff) == ["b"]
    build(library, fake)
    assert found(library, "owls", guest) == ["b"]
    assert found(library, "owls", staff) == ["a", "b"]


def test_rollback_brings_nothing_deleted_back_and_holds_until_the_next_change(library, fake):
    submit(library, [doc("a", "owls hunt"), doc("b", "owls hide")], [], view=ACME)
    first = build(library, fake).generation
    library.delete("a", ACME)
    second = build(library, fake).generation
    assert rollback(library.index_dir) == first
    assert found(library, "owls") == ["b"]
    assert not has_changes(library)
    submit(library, [doc("c", "owls sleep")], [], view=ACME)
    third = build(library, fake).generation
    assert serving(library.index_dir) == third not in (first, second)
    assert found(library, "owls") == ["b", "c"]


def test_publish_while_another_does_is_busy(library, fake):
    submit(library, [doc("a")], [], view=ACME)
    with only_publisher(library.index_dir), pytest.raises(IndexBusy):
        build(library, fake)
    build(library, fake)


def test_publish_over_an_index_without_a_library_is_refused(library, fake, tmp_path):
    (tmp_path / "old.txt").write_text("old owls")
    build_index(library.index_dir, [tmp_path / "old.txt"], fake)
    submit(library, [doc("a")], [], view=ACME)
    with pytest.raises(IndexUnwritable, match="ragrelay index PATH"):
        build(library, fake)
    assert found(library, "owls") == ["old.txt"]


def test_trouble_is_told_in_the_job_and_ends_with_it(library, fake):
    job = submit(library, [doc("a")], [], view=ACME)
    note_trouble(library, "the disk is full")
    assert find_job(library, job.id).error == "the disk is full"
    build(library, fake)
    ended = find_job(library, job.id)
    assert (ended.state, ended.error) == ("done", None)


KILLED = """
import os, signal, sys
from pathlib import Path
from retrieval.library.library import Library
from retrieval.library.publishing import publish
from tests.retrieval.fakes import FakeEmbedder
def stop(stage, done, total):
    if stage == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
publish(Library(Path(sys.argv[1])), FakeEmbedder(), language="english", on_progress=stop)
"""


@pytest.mark.parametrize("stage", ["read", "split", "embed", "write"])
def test_killed_while_building_leaves_the_old_and_the_change_to_the_next(library, fake, stage):
    submit(library, [doc("a", "owls hunt")], [], view=ACME)
    old = build(library, fake).generation
    job = submit(library, [doc("b", "owls")], [File(name="c.txt", content=b"owls")], view=ACME)
    script = [sys.executable, "-c", KILLED, str(library.index_dir), stage]
    ended = subprocess.run(script, cwd=REPO, timeout=60, stderr=subprocess.DEVNULL)
    assert ended.returncode == -signal.SIGKILL
    assert serving(library.index_dir) == old
    assert found(library, "owls") == ["a"]
    assert has_changes(library)
    build(library, fake)
    assert found(library, "owls") == ["a", "b", "c.txt"]
    assert find_job(library, job.id).state == "done"


def test_rebuild_compares_then_swaps_and_can_go_back(library, fake):
    submit(library, [doc(f"d{n}", f"owl number {n}") for n in range(30)], [], view=ACME)
    old = build(library, fake).generation
    other = FakeEmbedder(dim=4)
    seen: list[Any] = []
    other.model_id = "fake/other"

    def compare(before, after):
        seen.append((serving(library.index_dir), len(after)))
        asked = sample_questions(before)
        now = Retriever(FakeEmbedder(), before)
        assert overlap(now, Retriever(FakeEmbedder(), before), asked).mean == 1.0
        seen.append(overlap(now, Retriever(other, after), asked))

    report = rebuild(library, other, language="english", compare=compare)
    assert seen[0] == (old, 30)
    assert (seen[1].questions, 0 < seen[1].mean < 1) == (30, True)
    assert open_index(library.index_dir).manifest.embedding.model_id == "fake/other"
    assert not has_changes(library)
    assert rollback(library.index_dir) == old
    assert report.generation in [one.id for one in list_generations(library.index_dir)]
    assert not (library.index_dir / ".rebuild").exists()


def test_rebuild_that_is_not_wanted_leaves_the_old(library, fake):
    with pytest.raises(NoDocuments):
        rebuild(library, fake, language="english", compare=lambda old, new: None)
    submit(library, [doc("a")], [], view=ACME)
    old = build(library, fake).generation

    def refuse(before, after):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuild(library, FakeEmbedder(dim=4), language="english", compare=refuse)
    assert serving(library.index_dir) == old
    assert not (library.index_dir / ".rebuild").exists()
