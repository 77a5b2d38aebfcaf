import numpy as np
import pytest

from retrieval.index.passages import OFFSETS, Passages, content_hash, write_passages
from retrieval.types import IndexCorrupt, Passage

PASSAGES = [
    Passage("a:0", "a", "Title", "text é 漢", 0, 8, {"year": 1999, "tags": ["x", None]}),
    Passage("a:1", "a", "", "more", 8, 12),
]


@pytest.fixture
def store(tmp_path):
    write_passages(PASSAGES, tmp_path)
    return Passages.load(tmp_path)


def test_store_gives_back_what_was_written(store):
    assert len(store) == 2
    assert [store[0], store[1]] == PASSAGES


def test_store_hashes_are_of_the_indexed_text(store):
    assert store.rows_by_hash() == {content_hash("Title\ntext é 漢"): 0, content_hash("more"): 1}


def test_load_offsets_that_do_not_fit_raise_index_corrupt(store, tmp_path):
    np.save(tmp_path / OFFSETS, np.array([0, 5]))
    with pytest.raises(IndexCorrupt):
        Passages.load(tmp_path)


def test_load_pickled_offsets_are_refused(store, tmp_path):
    np.save(tmp_path / OFFSETS, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(IndexCorrupt):
        Passages.load(tmp_path)
