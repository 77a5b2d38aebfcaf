import gzip
import json
import math
from collections.abc import Sequence

import pytest

from retrieval.build.build import build_index
from retrieval.build.splitting import Splitter
from retrieval.evaluation.evaluation import evaluate, load_qrels, load_squad, load_squad_answers
from retrieval.index.index import open_index
from retrieval.search.retriever import Retriever
from retrieval.types import RetrievalError
from tests.retrieval.fakes import FakeEmbedder, word_tokenizer


@pytest.fixture
def retriever(tmp_path) -> Retriever:
    """Document "long" has two passages, both nearer to the query than "other"."""
    corpus = tmp_path / "c.jsonl"
    long = "alpha alpha alpha alpha. beta alpha alpha alpha."
    records = [{"id": "long", "text": long}, {"id": "other", "text": "alpha gamma"}]
    corpus.write_text("\n".join(json.dumps(record) for record in records))
    vectors: dict[str, Sequence[float]] = {"q": [1, 0], "alpha gamma": [0.7, 0.7]}
    vectors |= {"alpha alpha alpha alpha.": [1, 0], "beta alpha alpha alpha.": [0.9, 0.1]}
    embedder = FakeEmbedder(vectors, dim=2)
    splitter = Splitter(word_tokenizer(), 5, 0)
    build_index(tmp_path / "index", [corpus], embedder, splitter=splitter)
    index = open_index(tmp_path / "index")
    assert len(index) == 3
    return Retriever(embedder, index)


def test_evaluate_counts_a_document_once_by_its_best_passage(retriever):
    queries = {"1": "q", "unjudged": "q", "nothing": "q"}
    qrels = {"1": {"other": 1}, "nothing": {"other": 0}}
    report = evaluate(retriever, queries, qrels, ks=(1, 2))
    assert report.n_queries == 1
    assert report.figures["recall@1"].mean == 0
    assert report.figures["MRR@2"].mean == 0.5
    assert report.figures["nDCG@2"].mean == pytest.approx(1 / math.log2(3))


def test_report_table_has_a_row_a_metric(retriever):
    table = evaluate(retriever, {"1": "q"}, {"1": {"long": 2}}, ks=(1,)).to_table()
    assert table.splitlines() == [
        "| 1 queries | @1 |",
        "|---|---|",
        "| nDCG | 1.000 [1.000, 1.000] |",
        "| MRR | 1.000 [1.000, 1.000] |",
        "| recall | 1.000 [1.000, 1.000] |",
    ]


def test_evaluate_nothing_judged_is_refused(retriever):
    with pytest.raises(RetrievalError, match="no query"):
        evaluate(retriever, {"1": "q"}, {})


def test_load_squad_gives_questions_paragraphs_and_answers(tmp_path):
    answers = [{"text": "x", "answer_start": 0}, {"text": "y", "answer_start": 1}]
    question = {"id": "q1", "question": "Why?", "answers": answers}
    paragraphs = [{"context": "c", "qas": []}, {"context": "d", "qas": [question]}]
    squad = {"version": "1.1", "data": [{"title": "T_t", "paragraphs": paragraphs}]}
    (tmp_path / "dev.json").write_text(json.dumps(squad))
    assert load_squad(tmp_path / "dev.json") == ({"q1": "Why?"}, {"q1": {"T_t#1": 1}})
    assert load_squad_answers(tmp_path / "dev.json") == {"q1": ["x", "y"]}


@pytest.mark.parametrize("packed", [True, False])
def test_load_qrels_reads_beirs_form(tmp_path, packed):
    queries = b'{"id": "1", "text": "one"}\n{"_id": 2, "text": "two"}\n'
    name = "queries.jsonl.gz" if packed else "queries.jsonl"
    (tmp_path / name).write_bytes(gzip.compress(queries) if packed else queries)
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n1\td 1\t2\n2\td2\t0\n")
    loaded = load_qrels(tmp_path)
    assert loaded == ({"1": "one", "2": "two"}, {"1": {"d 1": 2}, "2": {"d2": 0}})


def test_load_qrels_bad_line_is_named(tmp_path):
    (tmp_path / "queries.jsonl").write_text('{"id": "1", "text": "one"}')
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n1 d1 2\n")
    with pytest.raises(RetrievalError, match="qrels.tsv line 2"):
        load_qrels(tmp_path)


def test_load_qrels_missing_file_is_named(tmp_path):
    with pytest.raises(RetrievalError, match="No such file"):
        load_qrels(tmp_path)
