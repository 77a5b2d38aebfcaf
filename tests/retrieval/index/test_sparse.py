import threading
from collections import Counter
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import bm25s
import numpy as np
import pytest
import Stemmer
from hypothesis import given, settings
from hypothesis import strategies as st
from rank_bm25 import BM25Okapi

from retrieval.index.sparse import (
    STOP_WORDS,
    SparseIndex,
    SparseInfo,
    best_rows,
    terms,
    write_sparse,
)
from retrieval.index.terms import count_terms
from retrieval.reading.corpora import read_squad
from retrieval.types import IndexCorrupt, Language

ENGLISH = SparseInfo()

TEXTS = [
    "Cats sleep sixteen hours a day, and cats purr.",
    "Dogs bark at the postman. The postman runs.",
    "Owls hunt mice at night; cats hunt mice too.",
    "The and of with to",
    "Running runners ran a running race for cats",
]


def bm25s_tokens(text: str, language: Language = "english") -> list[str]:
    stemmer = Stemmer.Stemmer(language)
    stop_words = list(STOP_WORDS[language])
    options = {"stopwords": stop_words, "stemmer": stemmer, "show_progress": False}
    return bm25s.tokenize([text], return_ids=False, **options)[0]


def build(texts: Iterable[str], directory: Path, info: SparseInfo) -> SparseIndex:
    """An index of the texts in row order, as a build makes it."""
    counted = count_terms(texts, partial(terms, language=info.language))
    write_sparse(counted, directory, info)
    return SparseIndex.load(directory, info)


def found(index: SparseIndex, query: str) -> list[int]:
    return best_rows(index.scores(query), 10).tolist()


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return build(TEXTS, tmp_path_factory.mktemp("sparse"), ENGLISH)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text("abcdeghilnorstu THEan'-_.,?!0123456789é"))
def test_terms_any_text_equals_bm25s_tokenize(text):
    assert terms(text) == bm25s_tokens(text)


SENTENCES = {
    "german": "Die Häuser standen nicht an den Flüssen, sie wurden verkauft.",
    "french": "Les chevaux n'étaient pas dans la maison des voisines.",
    "russian": "Собаки не лаяли на почтальонов в городах.",
    "turkish": "Evlerimizde kitaplar ve kalemler vardı.",
}


@pytest.mark.parametrize("language", sorted(STOP_WORDS.keys() - {"none"}))
def test_terms_each_language_equals_bm25s_tokenize(language):
    for text in (*SENTENCES.values(), *TEXTS):
        assert terms(text, language) == bm25s_tokens(text, language)


def test_terms_no_language_keeps_every_word():
    assert terms("The running of the bulls", "none") == ["the", "running", "of", "the", "bulls"]


def test_index_of_a_language_finds_its_inflections(tmp_path):
    german = build(SENTENCES.values(), tmp_path, SparseInfo("german"))
    assert found(german, "Fluss verkaufen Haus") == [0]
    assert found(german, "die an sie") == []


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


def assert_ranks_as_rank_bm25(texts: list[str], queries: list[str], directory) -> None:
    """With the same formula: the same first ten, and scores alike but for the factor k1 + 1.

    rank-bm25 floors the weight of words in over half of the texts in a way of its own; there
    must be none in the queries.
    """
    robertson = SparseInfo(method="robertson")
    index = build(texts, directory, robertson)
    judge = BM25Okapi([terms(text) for text in texts], k1=1.5, b=0.75)
    for query in queries:
        expected = judge.get_scores(terms(query))
        np.testing.assert_allclose(2.5 * index.scores(query), expected, rtol=1e-4, atol=1e-4)
        rows = best_rows(index.scores(query), 10)
        best = np.argsort(-expected, kind="stable")[: len(rows)]
        # float32 against float64: near-ties may swap.
        same = (rows == best) | np.isclose(expected[rows], expected[best], rtol=1e-5)
        assert same.all()


def test_search_ranks_as_rank_bm25_does_on_text_made_up(tmp_path):
    rng = np.random.default_rng(5)
    words = np.array([f"word{n}" for n in range(3000)])
    texts = [" ".join(words[rng.zipf(1.3, size=60) % 3000]) for _ in range(800)]
    df = Counter(word for text in texts for word in set(text.split()))
    queries = [
        " ".join(word for word in rng.permutation(text.split())[:9] if df[word] < 400)
        for text in texts[::16]
    ]
    assert_ranks_as_rank_bm25(texts, queries, tmp_path)


def test_search_ranks_as_rank_bm25_does_on_squad(squad_dev, tmp_path):
    paragraphs = [paragraph for _, _, paragraph in read_squad(squad_dev).paragraphs()]
    questions = [paragraph.qas[0].question for paragraph in paragraphs if paragraph.qas]
    texts = [paragraph.context for paragraph in paragraphs]
    assert_ranks_as_rank_bm25(texts, questions[::20], tmp_path)


def test_search_no_term_in_common_is_empty(index):
    for query in ("zebra", "", "the of and", "?!"):
        assert found(index, query) == []


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.5]), max_size=60), st.integers(1, 20))
def test_best_rows_equal_a_full_sort(values, k):
    scores = np.array(values, dtype=np.float32)
    expected = [row for row in np.argsort(-scores, kind="stable") if scores[row] > 0][:k]
    assert best_rows(scores, k).tolist() == expected


def test_build_only_stop_words_can_be_searched(tmp_path):
    index = build(["the and of", "to be"], tmp_path, ENGLISH)
    assert index.scores("the cat").tolist() == [0, 0]


def test_build_twice_writes_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        build(TEXTS, tmp_path / name, ENGLISH)
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
        SparseIndex.load(tmp_path, ENGLISH)
