"""Views over a whole index: the same rows from both stages, and from no one else's documents."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.build.build import build_documents
from retrieval.index import dense, selection
from retrieval.index.dense import DenseIndex, build_dense
from retrieval.index.filters import EVERYTHING, View, parse_filters
from retrieval.index.index import Index, open_index
from retrieval.index.selection import Selection
from retrieval.index.sparse import SparseIndex, SparseInfo, terms, write_sparse
from retrieval.index.terms import count_terms
from retrieval.index.visibility import MOST_VIEWS
from retrieval.search.retriever import Retriever
from retrieval.types import Document
from tests.retrieval.fakes import FakeEmbedder
from tests.retrieval.index.vectors import no_queries, unit_vectors

N = 4_000
DIM = 16


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return unit_vectors(N, DIM, seed=3)


@pytest.fixture(scope="module", params=["flat", "ivf"])
def built(request, vectors, tmp_path_factory) -> tuple[str, DenseIndex]:
    path = tmp_path_factory.mktemp(request.param) / "dense.faiss"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dense, "FLAT_MOST", N if request.param == "flat" else N - 1)
        queries = no_queries if request.param == "flat" else lambda: unit_vectors(64, DIM, seed=4)
        assert build_dense(vectors, path, queries).kind == request.param
    return request.param, DenseIndex.load(path)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), share=st.sampled_from([0.0, 0.001, 0.01, 0.1, 0.5, 1.0]))
def test_dense_search_among_rows_equals_brute_force(built, vectors, seed, share):
    kind, index = built
    rng = np.random.default_rng(seed)
    among = Selection(rng.random(N) < share)
    query = unit_vectors(1, DIM, seed)[0]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(selection, "FEW", 20)  # few enough to be compared, and many enough not
        is_few = among.is_few
        scores, rows = index.search(query, 50, among=among)
    cosines = np.where(among.mask, vectors @ query, -2)
    expected = np.argsort(-cosines, kind="stable")[: min(50, among.size)]
    assert among.mask[rows].all()
    assert len(set(rows.tolist())) == len(rows)
    np.testing.assert_allclose(scores, cosines[rows], atol=1e-6)
    assert (np.diff(scores) <= 1e-6).all()
    missed = len(np.setdiff1d(expected, rows))
    is_exact = is_few or kind == "flat"
    assert missed <= (0 if is_exact else 0.1 * len(expected))


def test_ivf_among_few_looks_into_as_many_more_lists(vectors, tmp_path, monkeypatch):
    """Far from the query there are rows as well: they are found although their lists are not."""
    monkeypatch.setattr(dense, "FLAT_MOST", N - 1)
    monkeypatch.setattr(selection, "FEW", 20)
    build_dense(vectors, tmp_path / "x", lambda: unit_vectors(64, DIM, seed=4))
    index = DenseIndex.load(tmp_path / "x")
    query = unit_vectors(1, DIM, 8)[0]
    far = np.zeros(N, dtype=np.bool_)
    far[np.argsort(vectors @ query)[: N // 10]] = True
    assert len(index.search(query, 100, among=Selection(far))[1]) == 100


def test_search_on_a_gpu_among_rows_is_the_cpus(vectors, tmp_path, monkeypatch):
    class Copy:
        def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            raise AssertionError("the copy on the GPU takes no selector")

    monkeypatch.setattr(selection, "FEW", 20)
    monkeypatch.setattr(faiss, "StandardGpuResources", lambda: None, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", lambda *_: Copy(), raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    build_dense(vectors, tmp_path / "x", no_queries)
    moved = DenseIndex.load(tmp_path / "x", device="cuda")
    half = Selection(np.arange(N) % 2 == 0)
    assert (moved.search(vectors[7], 9, among=half)[1] % 2 == 0).all()
    with pytest.raises(AssertionError):
        moved.search(vectors[7], 9)


def test_sparse_scores_among_rows_are_zero_elsewhere(tmp_path):
    counted = count_terms(["cats purr", "cats", "dogs", "cats sleep"], terms)
    write_sparse(counted, tmp_path, SparseInfo())
    index = SparseIndex.load(tmp_path, SparseInfo())
    everywhere = index.scores("cats")
    among = Selection(np.array([True, False, True, False]))
    assert index.scores("cats", among=among).tolist() == [everywhere[0], 0, 0, 0]


DOCUMENTS = [
    Document("open", "", "The tax rate is ten percent.", {"year": 2020}),
    Document("acme", "", "The tax rate is twenty percent.", {"year": 2021}, "acme"),
    Document("red", "", "The tax rate is thirty percent.", {"year": 2022}, "acme", ("red",)),
    Document("other", "", "The tax rate is forty percent.", {"year": 2020}, "other"),
    Document(
        "long", "", "The tax rate rises. " * 30 + "\n\n" + "The tax falls. " * 300, {}, "acme"
    ),
]
ALL = {document.doc_id for document in DOCUMENTS}


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> Index:
    directory = tmp_path_factory.mktemp("index")
    build_documents(directory, DOCUMENTS, FakeEmbedder())
    return open_index(directory)


@pytest.fixture
def serving(opened):
    yield opened
    opened.hidden = ()


def found(index: Index, view: View) -> set[str]:
    retriever = Retriever(FakeEmbedder(), index, min_similarity=-1)
    both = [
        asyncio.run(search("tax rate", 20, view=view))
        for search in (retriever.retrieve, retriever.sources)
    ]
    ids = [{hit.passage.doc_id for hit in retrieval.hits} for retrieval in both]
    assert ids[0] == ids[1]
    return ids[0]


@pytest.mark.parametrize(
    ("view", "seen"),
    [
        (EVERYTHING, ALL),
        (View("acme"), ALL - {"other"}),
        (View("acme", all_groups=False), ALL - {"other", "red"}),
        (View("acme", ("red", "blue"), all_groups=False), ALL - {"other"}),
        (View("acme", ("blue",), all_groups=False), ALL - {"other", "red"}),
        (View("public"), {"open"}),
        (View("nobody", ("red",), all_groups=False), {"open"}),
        (View(filters=parse_filters({"year": 2020})), {"open", "other"}),
        (View("acme", filters=parse_filters({"year": {"gte": 2021}})), {"acme", "red"}),
        (View(filters=parse_filters({"year": {"ne": 2020}})), {"acme", "red", "long"}),
        (View(filters=parse_filters({"year": 1})), set()),
    ],
)  # fmt: skip
def test_retrieve_returns_what_the_view_sees_and_nothing_else(serving, view, seen):
    assert found(serving, view) == seen


def test_hidden_documents_are_in_no_search_until_they_are_shown_again(serving):
    serving.hidden = {"open", "long", "was never there"}
    assert serving.hidden == {"open", "long", "was never there"}
    assert found(serving, EVERYTHING) == ALL - {"open", "long"}
    assert found(serving, View("public")) == set()
    serving.hidden = ()
    assert found(serving, EVERYTHING) == ALL


def test_hide_all_there_is_finds_nothing(serving):
    serving.hidden = ALL
    assert found(serving, EVERYTHING) == set()


def test_selection_that_leaves_nothing_out_is_none(serving):
    visibility = serving.visibility
    assert visibility.selection(EVERYTHING) is None
    assert visibility.selection(View(filters=parse_filters({"x": {"ne": 1}}))) is None
    serving.hidden = {"was never there"}
    assert visibility.selection(EVERYTHING) is None


def test_selection_is_kept_by_view_until_what_is_hidden_changes(serving):
    visibility = serving.visibility
    first = visibility.selection(View("acme"))
    assert first is not None
    assert visibility.selection(View("acme", ("red",))) is first  # all groups: the same rows
    serving.hidden = {"acme"}
    second = visibility.selection(View("acme"))
    assert second is not first
    serving.hidden = ["acme"]
    assert visibility.selection(View("acme")) is second
    for n in range(MOST_VIEWS):
        visibility.selection(View(filters=parse_filters({"year": n})))
    assert visibility.selection(View("acme")) is not second


def test_hide_while_others_search_never_shows_a_hidden_one_afterwards(serving):
    def flip(n: int) -> list[int]:
        serving.hidden = {"acme"} if n % 2 else {"open"}
        return [n]

    def ask(_: int) -> None:
        serving.visibility.selection(View("acme"))

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, n) for n in range(200)]
        flipped = [pool.submit(flip, n) for n in range(50)]
        for future in asked + flipped:
            future.result()
    serving.hidden = {"acme", "red"}
    assert found(serving, View("acme")) == {"open", "long"}


def rows_of(index: Index, doc_id: str) -> list[int]:
    number = index.documents.numbers[doc_id]
    return list(range(*index.documents.first_rows[number : number + 2]))


def test_rows_of_a_document_are_its_passages_in_order(opened):
    rows = rows_of(opened, "long")
    passages = [opened.passages[row] for row in rows]
    assert len(rows) > 1
    assert [passage.passage_id for passage in passages] == [f"long:{n}" for n in range(len(rows))]
    assert {passage.tenant for passage in passages} == {"acme"}
    assert rows_of(opened, "red") == [2]
    assert opened.passages[2].acl == ("red",)
