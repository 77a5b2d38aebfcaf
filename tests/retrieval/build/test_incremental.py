"""A build that takes over what has not changed gives what a build from nothing would."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.build import assembly
from retrieval.build.build import build_documents
from retrieval.build.splitting import Splitter
from retrieval.index import dense
from retrieval.index.generations import only_writer, rollback
from retrieval.index.index import current_generation, open_index
from retrieval.index.tombstones import FILE, bury
from retrieval.types import Document, IndexBusy, IndexUnwritable, NoDocuments
from tests.retrieval.build.processes import start
from tests.retrieval.fakes import FakeEmbedder, word_tokenizer
from tests.support.files import files_of_at_most

REPO = Path(__file__).parents[3]
CATS = Document("cats", "Cats", "Cats sleep all day.", {"year": 2020})
DOGS = Document("dogs", "Dogs", "Dogs bark at the postman. " * 60, {"year": 2021}, "acme", ("red",))
OWLS = Document("owls", "", "Owls hunt mice at night.")


@pytest.fixture
def index_dir(tmp_path) -> Path:
    return tmp_path / "index"


def files(index_dir: Path) -> dict[str, bytes]:
    """Of the current generation, all but its manifest."""
    directory = index_dir / "generations" / str(current_generation(index_dir))
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


class CountingSplitter(Splitter):
    def __init__(self) -> None:
        super().__init__(word_tokenizer())
        self.split_ids: list[str] = []

    def split(self, document):
        self.split_ids.append(document.doc_id)
        return super().split(document)


TEXTS = ["Cats sleep.", "Dogs bark at cats.", "Owls hunt mice. " * 120, "The of and", "cats cats"]
CORPORA = st.dictionaries(
    st.sampled_from("abcde"), st.sampled_from(TEXTS), min_size=1, max_size=5
).flatmap(lambda texts: st.permutations(sorted(texts.items())))


@settings(max_examples=12, deadline=None)
@given(history=st.lists(CORPORA, min_size=2, max_size=3))
def test_build_over_any_history_writes_what_a_build_from_nothing_does(history, tmp_path_factory):
    fake, directory = FakeEmbedder(), tmp_path_factory.mktemp("history")
    for seq, corpus in enumerate(history, start=1):
        documents = [
            Document(doc_id, "", text, {"n": len(text)}, tenant=doc_id) for doc_id, text in corpus
        ]
        build_documents(directory / "grown", documents, fake, seq=seq)
    build_documents(directory / "fresh", documents, fake, seq=seq)
    assert files(directory / "grown") == files(directory / "fresh")


def test_build_splits_and_embeds_changed_documents_alone(index_dir, fake):
    splitter = CountingSplitter()
    build_documents(index_dir, [CATS, DOGS, OWLS], fake, splitter=splitter)
    splitter.split_ids.clear()
    fake.encoded.clear()
    changed = Document("dogs", "Dogs", "Dogs wag.", {"year": 2021}, "acme", ("red",))
    report = build_documents(index_dir, [OWLS, changed, CATS], fake, seq=1, splitter=splitter)
    assert (splitter.split_ids, fake.encoded) == (["dogs"], ["Dogs\nDogs wag."])
    assert (report.documents, report.passages, report.reused_vectors) == (3, 3, 2)


def test_build_changed_metadata_alone_keeps_the_vectors(index_dir, fake):
    build_documents(index_dir, [CATS, OWLS], fake)
    fake.encoded.clear()
    moved = Document(CATS.doc_id, CATS.title, CATS.text, {"year": 1999}, "acme")
    assert build_documents(index_dir, [moved, OWLS], fake, seq=1).reused_vectors == 2
    assert fake.encoded == []
    assert open_index(index_dir).passages[0].metadata == {"year": 1999}


def test_build_less_documents_writes_what_a_build_from_nothing_does(index_dir, tmp_path, fake):
    build_documents(index_dir, [CATS, DOGS, OWLS], fake)
    fake.encoded.clear()
    build_documents(index_dir, [OWLS], fake, seq=1)
    assert fake.encoded == []
    build_documents(tmp_path / "fresh", [OWLS], fake)
    assert files(index_dir) == files(tmp_path / "fresh")
    for nothing in ([], [Document("blank", "", "\n" * 5_000)]):
        with pytest.raises(NoDocuments):
            build_documents(index_dir, nothing, fake, seq=2)
    assert len(open_index(index_dir)) == 1


def test_build_other_language_counts_its_terms_anew(index_dir, tmp_path, fake):
    build_documents(index_dir, [CATS, DOGS], fake)
    build_documents(index_dir, [CATS, DOGS], fake, language="none")
    build_documents(tmp_path / "fresh", [CATS, DOGS], fake, language="none")
    assert files(index_dir) == files(tmp_path / "fresh")


def test_build_same_documents_at_a_later_change_is_a_new_generation(index_dir, fake):
    first = build_documents(index_dir, [CATS], fake, seq=4)
    assert build_documents(index_dir, [CATS], fake, seq=4).unchanged
    later = build_documents(index_dir, [CATS], fake, seq=6)
    assert not later.unchanged
    assert later.generation != first.generation
    assert open_index(index_dir).manifest.seq == 6


def test_build_forgets_tombstones_that_no_kept_generation_needs(index_dir, fake):
    build_documents(index_dir, [CATS, DOGS], fake, seq=1)
    bury(index_dir, ["dogs"], 2)
    build_documents(index_dir, [CATS], fake, seq=2)
    assert b"dogs" in (index_dir / FILE).read_bytes()  # for the way back to change 1
    build_documents(index_dir, [CATS, OWLS], fake, seq=3)
    assert b"dogs" not in (index_dir / FILE).read_bytes()


def test_build_damaged_tombstones_do_not_undo_it(index_dir, fake):
    build_documents(index_dir, [CATS], fake, seq=1)
    (index_dir / FILE).write_bytes(b"{")
    report = build_documents(index_dir, [CATS, DOGS], fake, seq=2)
    assert report.generation == current_generation(index_dir)


def test_build_after_a_rollback_takes_over_from_what_serves(index_dir, tmp_path, fake):
    build_documents(index_dir, [CATS, DOGS], fake, seq=1)
    build_documents(index_dir, [CATS, OWLS], fake, seq=2)
    rollback(index_dir)
    build_documents(index_dir, [OWLS, DOGS], fake, seq=3)
    build_documents(tmp_path / "fresh", [OWLS, DOGS], fake)
    assert files(index_dir) == files(tmp_path / "fresh")


def test_only_writer_within_its_own_thread_is_let_in(index_dir, fake):
    with only_writer(index_dir):
        build_documents(index_dir, [CATS], fake)
        with only_writer(index_dir):
            pass
        script = (
            "import sys, pathlib; from retrieval.index.generations import only_writer\n"
            "with only_writer(pathlib.Path(sys.argv[1])): pass"
        )
        other = subprocess.run(
            [sys.executable, "-c", script, index_dir], cwd=REPO, capture_output=True, timeout=60
        )
        assert IndexBusy.__name__.encode() in other.stderr


def test_assembly_in_a_process_writes_the_same(index_dir, tmp_path, fake, monkeypatch):
    build_documents(tmp_path / "here", [CATS, DOGS], fake)
    monkeypatch.setattr(assembly, "INLINE_PASSAGES", 0)
    monkeypatch.chdir(tmp_path)
    build_documents(index_dir.name, [CATS], fake)
    build_documents(index_dir.name, [CATS, DOGS], fake)
    assert files(index_dir) == files(tmp_path / "here")


def test_assembly_process_imports_no_model():
    script = (
        "import sys, retrieval.build.assembly; print({'torch', 'onnxruntime'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=REPO, capture_output=True, text=True, timeout=60
    )
    assert (found.stdout, found.returncode) == ("set()\n", 0), found.stderr


def test_assembly_process_on_a_full_disk_keeps_the_old_and_leaves_no_debris(
    index_dir, fake, monkeypatch
):
    old = build_documents(index_dir, [CATS], fake).generation
    monkeypatch.setattr(assembly, "INLINE_PASSAGES", 0)
    before = files(index_dir)
    with files_of_at_most(700), pytest.raises(IndexUnwritable, match=r"File too large|requested"):
        build_documents(index_dir, [CATS, OWLS], fake, seq=1)
    assert current_generation(index_dir) == old
    assert os.listdir(index_dir / "generations") == [old]
    assert files(index_dir) == before
    open_index(index_dir).close()


def test_assembly_process_killed_raises_and_keeps_the_old(index_dir, fake, monkeypatch):
    old = build_documents(index_dir, [CATS], fake).generation
    monkeypatch.setattr(assembly, "INLINE_PASSAGES", 0)
    monkeypatch.setattr(assembly, "_START", "import os; os.kill(os.getpid(), 9)")
    with pytest.raises(IndexUnwritable, match="ended with -9"):
        build_documents(index_dir, [CATS, OWLS], fake, seq=1)
    assert current_generation(index_dir) == old
    assert os.listdir(index_dir / "generations") == [old]


def test_assembly_process_ends_with_its_parent(index_dir, corpus, fake):
    old = build_documents(index_dir, [CATS], fake).generation
    killed = start(index_dir, corpus, "process", "kill")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert current_generation(index_dir) == old
    deadline = time.monotonic() + 60
    while is_at_work(index_dir) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_at_work(index_dir)
    assert build_documents(index_dir, [CATS, OWLS], fake, seq=1).reused_vectors == 1
    assert len(os.listdir(index_dir / "generations")) == 2


def is_at_work(index_dir: Path) -> bool:
    """Whether a process has a directory of this index among its arguments."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{index_dir}/".encode() in (process / "cmdline").read_bytes():
                return True
        except OSError:
            continue  # it has ended
    return False


@pytest.fixture
def many(monkeypatch) -> list[Document]:
    monkeypatch.setattr(dense, "FLAT_MOST", 400)
    return [Document(f"d{n}", "", f"number {n} of many") for n in range(500)]


def assert_each_is_nearest_to_itself(index_dir: Path, fake: FakeEmbedder) -> None:
    index = open_index(index_dir)
    texts = [index.passages[row].indexed_text for row in range(len(index))]
    expected = fake.encode_passages(texts)
    np.testing.assert_array_equal(index.dense.vectors(np.arange(len(index))), expected)
    for row in range(0, len(index), 37):
        assert index.dense.search(expected[row], 1)[1].tolist() == [row]


def test_ivf_one_document_changed_keeps_the_lists(index_dir, fake, many):
    build_documents(index_dir, many, fake)
    trained = open_index(index_dir).manifest.dense
    assert (trained.kind, trained.trained, trained.added) == ("ivf", 500, 0)
    changed = [*many[250:], Document("new", "", "something new"), *many[:249]]
    build_documents(index_dir, changed, fake, seq=1)
    kept = open_index(index_dir).manifest.dense
    assert (kept.nlist, kept.nprobe) == (trained.nlist, trained.nprobe)
    assert (kept.trained, kept.added, kept.sample) == (500, 1, 256)
    assert kept.recall >= 0.98
    assert_each_is_nearest_to_itself(index_dir, fake)


def test_ivf_grown_by_half_since_it_was_trained_is_trained_again(index_dir, fake, many):
    build_documents(index_dir, many, fake)
    more = [Document(f"m{n}", "", f"another {n}") for n in range(251)]
    build_documents(index_dir, many + more[:250], fake, seq=1)
    assert open_index(index_dir).manifest.dense.trained == 500
    build_documents(index_dir, many + more, fake, seq=2)
    grown = open_index(index_dir).manifest.dense
    assert (grown.trained, grown.added) == (751, 0)
    assert_each_is_nearest_to_itself(index_dir, fake)


def test_ivf_that_no_longer_finds_enough_is_trained_again(index_dir, fake, many, monkeypatch):
    build_documents(index_dir, many, fake)
    found = open_index(index_dir).manifest.dense
    monkeypatch.setattr(dense, "RECALL", found.recall + 1e-4)
    build_documents(index_dir, many[1:], fake, seq=1)
    assert open_index(index_dir).manifest.dense.trained == 499


def test_ivf_shrunk_below_its_size_is_flat_again(index_dir, tmp_path, fake, many):
    build_documents(index_dir, many, fake)
    build_documents(index_dir, many[:300], fake, seq=1)
    assert open_index(index_dir).manifest.dense.kind == "flat"
    build_documents(index_dir, many, fake, seq=2)
    assert open_index(index_dir).manifest.dense.trained == 500
    assert_each_is_nearest_to_itself(index_dir, fake)
