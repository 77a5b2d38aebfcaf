import os
import signal
from pathlib import Path

import numpy as np
import pytest

from retrieval.build.build import build_index
from retrieval.build.splitting import Splitter
from retrieval.index.generations import rollback
from retrieval.index.index import current_generation, list_generations, open_index
from retrieval.types import IndexBusy, IndexMissing, IndexUnwritable, NoDocuments
from tests.retrieval.build.processes import start
from tests.retrieval.fakes import FakeEmbedder, word_tokenizer


@pytest.fixture
def index_dir(tmp_path) -> Path:
    return tmp_path / "index"


def entries(index_dir: Path) -> list[str]:
    return sorted(os.listdir(index_dir / "generations"))


def test_build_reports_counts_stages_and_skipped(index_dir, corpus, fake):
    (corpus / "empty.txt").write_text("")
    stages: list[str] = []
    report = build_index(index_dir, [corpus], fake, on_progress=lambda *now: stages.append(now[0]))
    assert (report.documents, report.passages, report.reused_vectors) == (3, 3, 0)
    assert [skip.reason for skip in report.skipped] == ["empty"]
    assert not report.unchanged
    assert report.generation == current_generation(index_dir)
    assert list(dict.fromkeys(stages)) == ["read", "split", "embed", "write"]


def test_build_same_corpus_again_is_unchanged(index_dir, corpus, fake):
    first = build_index(index_dir, [corpus], fake)
    again = build_index(index_dir, [corpus], fake)
    assert again.unchanged
    assert (again.generation, again.reused_vectors) == (first.generation, 3)
    assert len(fake.encoded) == 3


def test_build_one_document_changed_embeds_only_that_one(index_dir, corpus, fake):
    build_index(index_dir, [corpus], fake)
    old = open_index(index_dir)
    fake.encoded.clear()
    (corpus / "dogs.txt").write_text("Dogs wag their tails.")
    report = build_index(index_dir, [corpus], fake)
    assert report.reused_vectors == 2
    assert fake.encoded == ["dogs\nDogs wag their tails."]
    new = open_index(index_dir)
    rows = np.array([0, 2])
    assert (new.dense.vectors(rows) == old.dense.vectors(rows)).all()
    expected = fake.encode_queries([new.passages[row].indexed_text for row in range(3)])
    np.testing.assert_array_equal(new.dense.vectors(np.arange(3)), expected)


def test_build_other_model_embeds_everything_again(index_dir, corpus, fake):
    build_index(index_dir, [corpus], fake)
    other = FakeEmbedder(dim=4)
    report = build_index(index_dir, [corpus], other)
    assert (report.reused_vectors, len(other.encoded)) == (0, 3)


def test_build_other_splitter_is_not_unchanged(index_dir, corpus, fake):
    build_index(index_dir, [corpus], fake)
    splitter = Splitter(word_tokenizer(), 100)
    assert not build_index(index_dir, [corpus], fake, splitter=splitter).unchanged


def test_build_large_corpus_measures_its_own_recall(index_dir, tmp_path, fake, monkeypatch):
    monkeypatch.setattr("retrieval.index.dense.FLAT_MOST", 400)
    lines = [f'{{"id": "{n}", "text": "number {n} of many"}}' for n in range(500)]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    build_index(index_dir, [tmp_path / "c.jsonl"], fake)
    index = open_index(index_dir)
    assert (index.manifest.dense.kind, index.manifest.dense.sample) == ("ivf", 256)
    assert index.manifest.dense.recall >= 0.98
    (tmp_path / "c.jsonl").write_text("\n".join(lines[:450]))
    assert build_index(index_dir, [tmp_path / "c.jsonl"], fake).reused_vectors == 450
    expected = fake.encode_passages([open_index(index_dir).passages[7].indexed_text])
    np.testing.assert_array_equal(open_index(index_dir).dense.vectors(np.array([7])), expected)


def test_build_damaged_generation_is_rebuilt_without_its_vectors(index_dir, corpus, fake):
    generation = build_index(index_dir, [corpus], fake).generation
    dense = index_dir / "generations" / generation / "dense.faiss"
    dense.write_bytes(dense.read_bytes()[:-1] + b"\x7f")
    report = build_index(index_dir, [corpus], fake)
    assert (report.unchanged, report.reused_vectors) == (False, 0)
    open_index(index_dir).close()


def test_build_keeps_one_generation_before_and_no_debris(index_dir, corpus, fake):
    built = []
    for number in range(4):
        (corpus / "new.txt").write_text(f"version {number}")
        built.append(build_index(index_dir, [corpus], fake).generation)
        (index_dir / "generations" / f".building-{number}").mkdir()
    (corpus / "new.txt").write_text("last")
    built.append(build_index(index_dir, [corpus], fake).generation)
    assert entries(index_dir) == sorted(built[-2:])
    assert [manifest.id for manifest in list_generations(index_dir)] == built[:-3:-1]


def test_rollback_goes_to_the_generation_before_and_back(index_dir, corpus, fake):
    first = build_index(index_dir, [corpus], fake).generation
    (corpus / "new.txt").write_text("new")
    second = build_index(index_dir, [corpus], fake).generation
    assert rollback(index_dir) == first == current_generation(index_dir)
    assert rollback(index_dir) == second == current_generation(index_dir)
    assert rollback(index_dir, first) == first
    with pytest.raises(IndexMissing):
        rollback(index_dir, "20000101T000000-abcdef")


def test_build_without_documents_raises_and_keeps_the_old(index_dir, corpus, fake, tmp_path):
    old = build_index(index_dir, [corpus], fake).generation
    with pytest.raises(NoDocuments, match="none.txt: No such file"):
        build_index(index_dir, [tmp_path / "none.txt"], fake)
    assert current_generation(index_dir) == old
    assert entries(index_dir) == [old]


class Failing(FakeEmbedder):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def encode_passages(self, texts, *, progress=None):
        raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_build_broken_off_keeps_the_old_and_leaves_no_debris(index_dir, corpus, fake, error):
    old = build_index(index_dir, [corpus], fake).generation
    (corpus / "new.txt").write_text("new")
    with pytest.raises(type(error)):
        build_index(index_dir, [corpus], Failing(error))
    assert (current_generation(index_dir), entries(index_dir)) == (old, [old])


def test_build_interrupted_while_writing_leaves_no_debris(index_dir, corpus, fake):
    old = build_index(index_dir, [corpus], fake).generation
    (corpus / "new.txt").write_text("new")

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "write":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(index_dir, [corpus], fake, on_progress=interrupt)
    assert (current_generation(index_dir), entries(index_dir)) == (old, [old])


@pytest.mark.parametrize("stage", ["read", "split", "embed", "write", "fsync", "rename", "replace"])
def test_build_killed_at_any_step_leaves_the_old_serving(index_dir, corpus, fake, stage):
    old = build_index(index_dir, [corpus], fake).generation
    (corpus / "new.txt").write_text("new")
    killed = start(index_dir, corpus, stage, "kill")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert open_index(index_dir).generation == old
    report = build_index(index_dir, [corpus], fake)
    assert open_index(index_dir).generation == report.generation
    assert entries(index_dir) == sorted([old, report.generation])


def test_build_disk_full_raises_index_unwritable_and_keeps_the_old(index_dir, corpus, fake):
    old = build_index(index_dir, [corpus], fake).generation
    (corpus / "long.txt").write_text("many words " * 500)
    full = start(index_dir, corpus, "", "limit")
    _, errors = full.communicate(timeout=60)
    assert full.returncode == 1
    assert errors.startswith("IndexUnwritable: cannot write a new index")
    assert "the one before it stays" in errors
    assert open_index(index_dir).generation == old
    assert entries(index_dir) == [old]


def test_build_while_another_writes_raises_index_busy(index_dir, corpus, fake):
    other = start(index_dir, corpus, "read", "wait")
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "waiting\n"
        with pytest.raises(IndexBusy, match="another process"):
            build_index(index_dir, [corpus], fake)
    finally:
        other.kill()
        other.communicate(timeout=10)
    assert not build_index(index_dir, [corpus], fake).unchanged


def test_build_where_nothing_may_be_written_raises_index_unwritable(tmp_path, corpus, fake):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(IndexUnwritable):
        build_index(tmp_path / "file" / "index", [corpus], fake)
