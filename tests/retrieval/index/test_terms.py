import bm25s
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.index.sparse import SparseInfo, terms, write_sparse
from retrieval.index.terms import TermCounts, count_terms, gather
from retrieval.types import IndexCorrupt

WORDS = [f"word{n}" for n in range(40)]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join), max_size=6)


def assert_same(one: TermCounts, other: TermCounts) -> None:
    assert one.vocabulary == other.vocabulary
    for name in ("starts", "ids", "counts"):
        ours, theirs = getattr(one, name), getattr(other, name)
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(TEXTS, min_size=1, max_size=3), data=st.data())
def test_gather_any_rows_equals_counting_their_texts(parts, data):
    texts = [text for part in parts for text in part]
    chosen = st.lists(st.integers(0, len(texts) - 1), max_size=8) if texts else st.just([])
    rows = data.draw(chosen)
    gathered = gather([count_terms(part, terms) for part in parts], np.array(rows, dtype=np.int64))
    assert_same(gathered, count_terms([texts[row] for row in rows], terms))


def test_counts_come_back_as_they_were_saved(tmp_path):
    counted = count_terms(["cats chase cats", "", "mice"], terms)
    counted.save(tmp_path)
    assert_same(TermCounts.load(tmp_path), counted)
    assert len(counted) == 3
    (tmp_path / "term_ids.npy").unlink()
    with pytest.raises(IndexCorrupt):
        TermCounts.load(tmp_path)


@pytest.mark.parametrize("method", ["lucene", "robertson"])
def test_weights_are_those_of_bm25s_byte_for_byte(tmp_path, method):
    rng = np.random.default_rng(3)
    texts = [
        " ".join(f"word{n}" for n in rng.zipf(1.3, size=rng.integers(0, 90)) % 500)
        for _ in range(700)
    ]
    info = SparseInfo(method=method)
    counted = count_terms(texts, terms)
    write_sparse(counted, tmp_path / "ours", info)
    numbers = {term: number for number, term in enumerate(counted.vocabulary)}
    judge = bm25s.BM25(k1=info.k1, b=info.b, method=method)
    tokens = [[numbers[term] for term in terms(text)] for text in texts]
    judge.index((tokens, {**numbers, "": len(numbers)}), show_progress=False)
    judge.save(tmp_path / "theirs", show_progress=False)
    for theirs in (tmp_path / "theirs").iterdir():
        assert (tmp_path / "ours" / theirs.name).read_bytes() == theirs.read_bytes(), theirs.name
