import threading

import bm25s
import numpy as np
import pytest
import Stemmer
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from retrieval.sparse import SparseIndex, best_rows, build_sparse, terms
from retrieval.types import IndexCorrupt

TEXTS = [
    "Cats sleep sixteen hours a day, and cats purr.",
    "Dogs bark at the postman. The postman runs.",
    "Owls hunt mice at night; cats hunt mice too.",
    "The and of with to",
    "Running runners ran a running race for cats",
]


def bm25s_tokens(text: str) -> list[str]:
    stemmer = Stemmer.Stemmer("english")
    options = {"stopwords": "english", "stemmer": stemmer, "show_progress": False}
    return bm25s.tokenize([text], return_ids=False, **options)[0]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sparse")
    build_sparse(TEXTS, directory)
    return SparseIndex.load(directory)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text("abcdeghilnorstu THEan'-_.,?!0123456789é"))
def test_terms_any_text_equals_bm25s_tokenize(text):
    assert terms(text) == bm25s_tokens(text)


def test_scores_equal_lucene_bm25_by_the_formula(index):
    corpus = [terms(text) for text in TEXTS]
    mean_length = np.mean([len(doc) for doc in corpus])
    query = "do cats hunt mice, cats?"
    expected = []
    for doc in corpus:
        score = 0.0
        for term in terms(query):
            df = sum(term in other for other in corpus)
            idf = np.log(1 + (len(corpus) - df + 0.5) / (df + 0.5))
            tf = doc.count(term)
            score += idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * len(doc) / mean_length))
        expected.append(score)
    np.testing.assert_allclose(index.scores(query), expected, rtol=1e-5)


def test_scores_equal_bm25s_own(index):
    bm25 = bm25s.BM25(k1=1.5, b=0.75, method="lucene")
    bm25.index([bm25s_tokens(text) for text in TEXTS], show_progress=False)
    for query in ("cats", "hunt mice hunt", "the postman runs a race"):
        own = bm25.get_scores(bm25s_tokens(query))
        np.testing.assert_allclose(index.scores(query), own, rtol=1e-6)


def test_search_ranks_as_rank_bm25_does(index):
    judge = BM25Okapi([terms(text) for text in TEXTS], k1=1.5, b=0.75)
    for query in ("postman bark", "owls mice night", "running race"):
        best = int(np.argmax(judge.get_scores(terms(query))))
        assert index.search(query, 1)[1].tolist() == [best]


def test_search_no_term_in_common_is_empty(index):
    for query in ("zebra", "", "the of and", "?!"):
        scores, rows = index.search(query, 10)
        assert len(scores) == len(rows) == 0


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]), max_size=60), st.integers(1, 20))
def test_best_rows_equal_a_full_sort(values, k):
    scores = np.array(values, dtype=np.float32)
    expected = [row for row in np.argsort(-scores, kind="stable") if scores[row] > 0][:k]
    assert best_rows(scores, k).tolist() == expected


def test_build_only_stop_words_can_be_searched(tmp_path):
    build_sparse(["the and of", "to be"], tmp_path)
    index = SparseIndex.load(tmp_path)
    assert index.scores("the cat").tolist() == [0, 0]


def test_build_twice_writes_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        build_sparse(TEXTS, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_terms_from_many_threads_stay_right():
    wrong: list[str] = []

    def work() -> None:
        for _ in range(200):
            if terms("running runners postmen's") != ["run", "runner", "postmen"]:
                wrong.append("wrong")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_load_without_files_raises_index_corrupt(tmp_path):
    with pytest.raises(IndexCorrupt):
        SparseIndex.load(tmp_path)
