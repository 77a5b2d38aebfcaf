import json
from pathlib import Path

import pytest

from retrieval.evaluation.comparison import SHOWN, Configuration, compare
from retrieval.types import ModelUnavailable, RetrievalError
from tests.retrieval.tiny_models import save_bi_encoder, save_cross_encoder

QUERIES = {"1": "cats sleep", "2": "dogs bark", "3": "owls hunt mice", "unjudged": "cats"}
QRELS = {"1": {"a": 1}, "2": {"b": 1}, "3": {"c": 1}}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models")
    save_bi_encoder(path / "bi")
    save_cross_encoder(path / "likes-good")
    return path


@pytest.fixture
def corpus(tmp_path) -> Path:
    texts = {
        "a": "bad cats sleep",
        "b": "bad dogs bark",
        "c": "bad owls hunt mice at the owls",
        "d": "good good cats sleep dogs bark owls hunt mice",
    }
    records = [json.dumps({"id": id_, "text": text}) for id_, text in texts.items()]
    (tmp_path / "corpus.jsonl").write_text("\n".join(records))
    return tmp_path / "corpus.jsonl"


def test_compare_measures_each_and_its_difference_to_the_first(models, corpus):
    model = str(models / "bi")
    stages: list[str] = []
    comparison = compare(
        corpus,
        QUERIES,
        QRELS,
        [
            Configuration(name="BM25", embedding_model=model, fusion="sparse"),
            Configuration(name="same", embedding_model=model, fusion="sparse", language="none"),
            Configuration(
                name="reranked",
                embedding_model=model,
                fusion="sparse",
                rerank_model=str(models / "likes-good"),
            ),
        ],
        threads=1,
        on_progress=lambda *now: stages.append(now[0]),
    )
    first, same, reranked = comparison.reports
    assert [report.n_queries for report in comparison.reports] == [3, 3, 3]
    assert first.figures["nDCG@10"].mean == same.figures["nDCG@10"].mean == 1
    # The reranker puts "d" first, which is never the one that was asked for.
    assert reranked.figures["recall@1"].mean == 0
    assert reranked.figures["recall@10"].mean == 1
    assert comparison.differences[1]["nDCG@10"].mean == 0
    assert comparison.differences[2]["recall@1"].mean == -1
    assert stages.count("write") == 4  # two indexes; the vectors of the second are the first's
    assert stages.count("embed") == 1
    lines = comparison.to_table().splitlines()
    assert lines[0] == "| 3 queries | " + " | ".join(SHOWN) + " |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| BM25", "| same", "| reranked", "| same less BM25", "| reranked less BM25",
    ]  # fmt: skip
    assert "-1.000 [-1.000, -1.000]" in lines[-1]


def test_compare_one_alone_shows_every_figure(models, corpus):
    only = Configuration(name="x", embedding_model=str(models / "bi"))
    table = compare(corpus, QUERIES, QRELS, [only], threads=1).to_table()
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [
        "| nDCG", "| MRR", "| recall",
    ]  # fmt: skip


def test_compare_nothing_judged_is_refused_before_any_model_is_loaded(corpus):
    with pytest.raises(RetrievalError, match="no query"):
        compare(corpus, QUERIES, {}, [Configuration(name="x", embedding_model="/nowhere")])


def test_compare_model_that_is_not_there_is_refused(corpus, tmp_path):
    missing = Configuration(name="x", embedding_model=str(tmp_path))
    with pytest.raises(ModelUnavailable):
        compare(corpus, QUERIES, QRELS, [missing])
