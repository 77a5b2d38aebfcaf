import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from retrieval.index.tombstones import FILE, Tombstones, bury, forget
from retrieval.types import IndexCorrupt, IndexUnwritable
from tests.support.files import files_of_at_most


def test_bury_hides_in_generations_of_earlier_changes_alone(tmp_path):
    bury(tmp_path, ["a", "b"], 5)
    bury(tmp_path, ["c"], 7)
    tombstones = Tombstones(tmp_path)
    assert tombstones.gone(0) == frozenset()
    assert tombstones.refresh()
    assert tombstones.gone(4) == {"a", "b", "c"}
    assert tombstones.gone(5) == tombstones.gone(6) == {"c"}
    assert tombstones.gone(7) == frozenset()


def test_bury_again_keeps_the_later_change(tmp_path):
    bury(tmp_path, ["a"], 9)
    bury(tmp_path, ["a"], 3)
    tombstones = Tombstones(tmp_path)
    tombstones.refresh()
    assert tombstones.gone(8) == {"a"}


def test_refresh_without_a_change_reads_nothing(tmp_path, monkeypatch):
    tombstones = Tombstones(tmp_path)
    assert not tombstones.refresh()
    bury(tmp_path, ["a"], 1)
    assert tombstones.refresh()
    (tmp_path / FILE).chmod(0o600)  # the same file: its time of change is not looked at
    assert not tombstones.refresh()
    os.unlink(tmp_path / FILE)
    assert tombstones.refresh()
    assert tombstones.gone(0) == frozenset()


def test_forget_drops_what_no_generation_needs(tmp_path):
    forget(tmp_path, oldest=3)
    assert not (tmp_path / FILE).exists()
    bury(tmp_path, ["a"], 3)
    bury(tmp_path, ["b"], 4)
    forget(tmp_path, oldest=3)
    tombstones = Tombstones(tmp_path)
    tombstones.refresh()
    assert tombstones.gone(0) == {"b"}


def test_bury_from_many_threads_loses_none(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: bury(tmp_path, [f"d{n}"], n + 1), range(40)))
    tombstones = Tombstones(tmp_path)
    tombstones.refresh()
    assert len(tombstones.gone(0)) == 40


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"documents": {"a": "x"}}', b"\xff"])
def test_refresh_damaged_file_raises_and_brings_nothing_back(tmp_path, content):
    bury(tmp_path, ["a"], 1)
    tombstones = Tombstones(tmp_path)
    tombstones.refresh()
    (tmp_path / FILE).write_bytes(content)
    for _ in range(2):
        with pytest.raises(IndexCorrupt):
            tombstones.refresh()
    assert tombstones.gone(0) == {"a"}
    with pytest.raises(IndexCorrupt):
        bury(tmp_path, ["b"], 2)


def test_bury_that_cannot_be_written_raises_and_keeps_the_file(tmp_path):
    bury(tmp_path, ["a"], 1)
    before = (tmp_path / FILE).read_bytes()
    with files_of_at_most(30), pytest.raises(IndexUnwritable, match="File too large"):
        bury(tmp_path, ["b" * 100], 2)
    assert sorted(os.listdir(tmp_path)) == [".tombstones.lock", FILE]
    assert (tmp_path / FILE).read_bytes() == before
    (tmp_path / "in the way").write_text("")
    with pytest.raises(IndexUnwritable):
        bury(tmp_path / "in the way" / "index", ["b"], 2)
