"""Documents in and out of the library, who may, and what is on disk when a call returns."""

import gzip
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from retrieval.index.filters import EVERYTHING, View
from retrieval.index.tombstones import Tombstones
from retrieval.library.files import File, has_files, next_file
from retrieval.library.jobs import find_job, replace_file, submit
from retrieval.library.library import DocumentTaken, Library
from retrieval.library.records import LIBRARY
from retrieval.library.uploads import read_waiting
from retrieval.types import Document, IndexCorrupt, IndexMismatch, IndexUnwritable

ACME, BETA = View(tenant="acme"), View(tenant="beta")
REPO = Path(__file__).parents[3]


@pytest.fixture
def library(tmp_path):
    opened = Library(tmp_path / "index")
    yield opened
    opened.close()


def doc(doc_id: str, text: str = "text", tenant: str = "acme", **more) -> Document:
    return Document(doc_id=doc_id, title=doc_id, text=text, tenant=tenant, **more)


def ids(library: Library, view: View = EVERYTHING, **page) -> list[str]:
    return [kept.doc_id for kept in library.documents(view, **{"limit": 100, **page})]


def statuses(job) -> list[tuple[str, str]]:
    return [(one.doc_id, one.status) for one in job.documents]


def test_submit_tells_added_updated_unchanged(library):
    first = submit(library, [doc("a"), doc("b")], [], view=ACME)
    again = submit(library, [doc("a"), doc("b", "other")], [], view=ACME)
    assert statuses(first) == [("a", "added"), ("b", "added")]
    assert statuses(again) == [("a", "unchanged"), ("b", "updated")]
    assert library.clock() == (2, 0)
    assert [one.text for one in library.snapshot()[1]] == ["text", "other"]


def test_submit_same_again_once_built_is_done_and_changes_nothing(library):
    submit(library, [doc("a")], [], view=ACME)
    waiting = submit(library, [doc("a")], [], view=ACME)
    library.note_built(1)
    done = submit(library, [doc("a")], [], view=ACME, generation="g")
    assert (waiting.state, waiting.seq, done.state, done.generation) == ("queued", 1, "done", "g")
    assert library.clock() == (1, 1)


def test_submit_id_of_another_tenant_is_refused_whole(library):
    submit(library, [doc("a")], [], view=ACME)
    with pytest.raises(DocumentTaken, match="taken"):
        submit(library, [doc("new", tenant="beta"), doc("a", tenant="beta")], [], view=BETA)
    with pytest.raises(DocumentTaken):
        submit(library, [], [File(name="a", content=b"x")], view=BETA)
    assert ids(library) == ["a"]
    assert not has_files(library)
    assert library.document("a", BETA) is None


def test_submit_over_a_document_of_another_group_is_refused(library):
    submit(library, [doc("a", acl=("staff",))], [], view=ACME)
    outsider = View(tenant="acme", groups=("guests",), all_groups=False)
    with pytest.raises(DocumentTaken):
        submit(library, [doc("a", "mine now")], [], view=outsider)
    assert library.document("a", outsider) is None
    assert not library.delete("a", outsider)


@pytest.mark.parametrize(
    ("view", "seen"),
    [
        (EVERYTHING, ["a", "all", "b", "staff"]),
        (ACME, ["a", "all", "staff"]),
        (BETA, ["all", "b"]),
        (View(tenant="acme", all_groups=False), ["a", "all"]),
        (View(tenant="acme", groups=("staff", "x"), all_groups=False), ["a", "all", "staff"]),
    ],
)
def test_documents_lists_what_a_view_may_see(library, view, seen):
    submit(library, [doc("a"), doc("staff", acl=("staff",))], [], view=ACME)
    submit(library, [doc("b", tenant="beta")], [], view=BETA)
    library.replace_paths([doc("all", tenant="public")])
    assert ids(library, view) == seen
    assert [id for id in ["a", "all", "b", "staff"] if library.document(id, view)] == seen


def test_documents_pages_and_finds_by_part_of_id_or_title(library):
    names = ["one", "two%", "T_hree", "four"]
    submit(library, [doc(name) for name in names], [], view=ACME)
    assert ids(library, ACME, limit=2) == ["T_hree", "four"]
    assert ids(library, ACME, limit=9, after="four") == ["one", "two%"]
    assert ids(library, ACME, q="O") == ["four", "one", "two%"]
    assert ids(library, ACME, q="%") == ["two%"]
    assert ids(library, ACME, q="t_") == ["T_hree"]


def test_replace_paths_keeps_the_documents_of_the_api(library):
    library.replace_paths([doc("p1", tenant="public"), doc("p2", tenant="public")])
    submit(library, [doc("mine")], [], view=ACME)
    new = [doc("p2", "new", tenant="public"), doc("mine", "stolen", tenant="public")]
    assert library.replace_paths(new) == ["mine"]
    assert [(one.doc_id, one.text) for one in library.snapshot()[1]] == [
        ("p2", "new"),
        ("mine", "text"),
    ]
    seq = library.clock()[0]
    library.replace_paths(new)
    assert library.clock()[0] == seq


def test_delete_buries_and_is_of_the_own_tenant_alone(library):
    submit(library, [doc("a")], [], view=ACME)
    library.replace_paths([doc("all", tenant="public")])
    assert not library.delete("a", BETA)
    with pytest.raises(DocumentTaken):
        library.delete("all", BETA)
    assert library.delete("a", ACME)
    assert not library.delete("a", ACME)
    tombstones = Tombstones(library.index_dir)
    tombstones.refresh()
    assert (tombstones.gone(2), tombstones.gone(3)) == ({"a"}, set())


def test_delete_that_cannot_bury_deletes_nothing(library):
    submit(library, [doc("a")], [], view=ACME)
    (library.index_dir / "tombstones.json").write_text("damaged")
    with pytest.raises(IndexCorrupt):
        library.delete("a", ACME)
    assert ids(library) == ["a"]


def test_delete_of_a_file_that_waits_keeps_it_out(library):
    job = submit(library, [], [File(name="a.txt", content=b"some text")], view=ACME)
    waiting = next_file(library)
    assert library.delete("a.txt", ACME)
    replace_file(library, waiting, [doc("a.txt")], [])
    assert ids(library) == []
    assert statuses(find_job(library, job.id)) == [("a.txt", "failed")]


def test_files_are_read_with_name_title_metadata_and_reasons(library):
    corpus = b'{"id": "c1", "text": "one", "year": 1}\n{"id": "c2"}\n'
    files = [
        File(name="../etc/notes.md", content=b"no heading", metadata={"lang": "en"}, acl=("g",)),
        File(name="deep/lines.jsonl", content=corpus),
        File(name="bad.txt", content=b"\xff\xfe"),
    ]
    job = submit(library, [], files, view=ACME)
    read_waiting(library, lambda: None)
    assert not has_files(library)
    kept = {one.doc_id: one for one in library.documents(ACME, limit=9)}
    assert kept.keys() == {"../etc/notes.md", "c1"}
    notes = kept["../etc/notes.md"]
    assert (notes.title, notes.metadata, notes.acl) == ("notes", {"lang": "en"}, ("g",))
    assert (kept["c1"].metadata, kept["c1"].tenant) == ({"year": 1}, "acme")
    outcomes = {(o.doc_id, o.status, o.reason) for o in find_job(library, job.id).documents}
    assert outcomes == {
        ("../etc/notes.md", "added", None),
        ("c1", "added", None),
        ("deep/lines.jsonl", "failed", "line 2: no text"),
        ("bad.txt", "failed", "not UTF-8 at byte 0"),
    }


def test_file_with_documents_of_another_tenant_leaves_them_alone(library):
    submit(library, [doc("c1")], [], view=ACME)
    file = File(name="x.jsonl", content=b'{"id": "c1", "text": "mine"}')
    job = submit(library, [], [file], view=BETA)
    read_waiting(library, lambda: None)
    assert library.document("c1", ACME)[1] == "text"
    assert find_job(library, job.id).documents[0].reason == "the id is taken"


def packed(*lines: str) -> bytes:
    return gzip.compress("\n".join(lines).encode(), mtime=0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (packed(*(f'{{"id": "{n}", "text": "x"}}' for n in range(10_001))), "10,000 documents"),
        (
            packed(*(f'{{"id": "{n}", "text": "{"word " * 3000}"}}' for n in range(3))),
            "20,000 char",
        ),
        (packed(f'{{"id": "{"y" * 513}", "text": "x"}}'), "512 characters"),
        (packed('{"id": "a\\u0000b", "text": "x"}'), "control"),
    ],
)
def test_file_that_holds_too_much_is_not_taken(library, monkeypatch, content, reason):
    monkeypatch.setattr("retrieval.library.uploads.MOST_CHARS", 20_000)
    job = submit(library, [], [File(name="c.jsonl.gz", content=content)], view=ACME)
    read_waiting(library, lambda: None)
    assert ids(library) == []
    assert reason in find_job(library, job.id).documents[0].reason
    assert find_job(library, job.id).documents[0].status == "failed"


def test_writers_side_by_side_lose_nothing(library):
    others = [Library(library.index_dir) for _ in range(4)]

    def write(n: int) -> None:
        for m in range(20):
            submit(others[n], [doc(f"{n}-{m}")], [], view=ACME)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for other in others:
        other.close()
    assert library.clock()[0] == 80
    assert len(library.snapshot()[1]) == 80


def test_library_of_another_version_or_damaged_is_refused(tmp_path):
    path = tmp_path / LIBRARY
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(IndexMismatch, match="version 9"):
        Library(tmp_path)
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(IndexCorrupt):
        Library(tmp_path)
    with pytest.raises(IndexUnwritable):
        Library(path / "below")


FULL = """
import resource, sys
from pathlib import Path
from retrieval.index.filters import View
from retrieval.library.jobs import submit
from retrieval.library.library import Library
from retrieval.types import Document, IndexUnwritable
library = Library(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
n = 0
try:
    while True:
        submit(library, [Document(str(n), "t", "x" * 20_000, tenant="acme")], [], view=View("acme"))
        n += 1
        print(n, flush=True)
except IndexUnwritable as exc:
    print("refused", exc, file=sys.stderr)
"""


def test_full_disk_refuses_and_keeps_what_was_acknowledged(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        cwd=REPO, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    acknowledged = len(ended.stdout.split())
    assert ended.stderr.startswith("refused cannot write to")
    assert acknowledged > 0
    library = Library(tmp_path)
    assert len(library.snapshot()[1]) == acknowledged
    library.close()


def test_killed_process_loses_nothing_acknowledged(tmp_path):
    script = FULL.replace("(300_000, 300_000)", "(-1, -1)")
    running = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=REPO, stdout=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    for _ in range(5):
        running.stdout.readline()
    running.kill()
    acknowledged = 5 + len(running.stdout.read().split())
    running.wait(10)
    running.stdout.close()
    library = Library(tmp_path)
    assert len(library.snapshot()[1]) in (acknowledged, acknowledged + 1)
    library.close()
