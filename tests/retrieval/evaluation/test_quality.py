"""Floors on real data with the real model: a change that ranks worse fails here."""

import asyncio
import json
from pathlib import Path

import pytest

from retrieval.build.build import build_index
from retrieval.evaluation.evaluation import evaluate
from retrieval.index.index import open_index
from retrieval.reading.corpora import read_squad
from retrieval.search.retriever import Retriever


@pytest.fixture(scope="module")
def xquad(minilm, squad_dev, xquad_ids, tmp_path_factory):
    """The 240 paragraphs and 1,190 questions of XQuAD (English)."""
    wanted = set(Path(xquad_ids).read_text().split())
    records, queries, qrels = [], {}, {}
    for doc_id, title, paragraph in read_squad(squad_dev).paragraphs():
        questions = [question for question in paragraph.qas if question.id in wanted]
        if questions:
            records.append({"id": doc_id, "title": title, "text": paragraph.context})
        for question in questions:
            queries[question.id], qrels[question.id] = question.question, {doc_id: 1}
    directory = tmp_path_factory.mktemp("xquad")
    (directory / "c.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    report = build_index(directory / "index", [directory / "c.jsonl"], minilm)
    assert (report.documents, len(queries)) == (240, 1190)
    index = open_index(directory / "index", embedder=minilm)
    return index, queries, qrels, minilm.encode_queries(list(queries.values()))


@pytest.mark.parametrize(
    ("fusion", "floor"),
    # Published for this set: BM25 0.965, all-MiniLM-L6-v2 0.944.
    [("sparse", 0.96), ("dense", 0.935), ("convex", 0.97), ("rrf", 0.955)],
)
def test_ndcg_on_xquad_stays_above_its_floor(minilm, xquad, fusion, floor):
    index, queries, qrels, query_embeddings = xquad
    retriever = Retriever(minilm, index, fusion=fusion)
    report = evaluate(retriever, queries, qrels, (10,), query_embeddings=query_embeddings)
    assert report.figures["nDCG@10"].mean >= floor


def test_gibberish_retrieves_nothing_questions_do(minilm, xquad):
    retriever = Retriever(minilm, xquad[0])

    async def hits(query: str) -> int:
        return len((await retriever.retrieve(query, 3)).hits)

    for gibberish in ("zxqv wobblefrump gnarf", "???", "bnvx kjhq"):
        assert asyncio.run(hits(gibberish)) == 0
    for question in list(xquad[1].values())[::100]:
        assert asyncio.run(hits(question)) == 3
