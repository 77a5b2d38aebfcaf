"""Measure retrieval on judged queries: recall@k, MRR@k and nDCG@k with intervals.

Every query goes the way it is served, reranker and all; what is read from disk is here as well.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from retrieval.evaluation.metrics import Figure, bootstrap, mrr_at, ndcg_at, recall_at
from retrieval.reading.bounded import Unreadable, decode, read_lines
from retrieval.reading.corpora import read_squad
from retrieval.search.ranking import DEPTH
from retrieval.search.retriever import Retriever
from retrieval.types import Float32Array, RetrievalError

Queries = dict[str, str]
Qrels = dict[str, dict[str, int]]
"""query id → doc_id → grade (0: not relevant)."""

KS = (1, 5, 10, 20, 100)
MEASURES = {"nDCG": ndcg_at, "MRR": mrr_at, "recall": recall_at}


class Measured(msgspec.Struct, frozen=True):
    """(measures at each k, queries), rows in the order of `names`, columns in that of the judged
    queries."""

    names: list[str]
    table: npt.NDArray[np.float64]


class Report(msgspec.Struct, frozen=True):
    n_queries: int
    ks: tuple[int, ...]
    figures: dict[str, Figure]
    """By name: "nDCG@10", "MRR@10", "recall@10"."""

    @classmethod
    def of(cls, measured: Measured, ks: Sequence[int]) -> "Report":
        figures = zip(measured.names, bootstrap(measured.table), strict=True)
        return cls(measured.table.shape[1], tuple(ks), dict(figures))

    def to_table(self) -> str:
        """Markdown, one row a metric."""
        lines = [
            "| " + " | ".join([f"{self.n_queries} queries", *(f"@{k}" for k in self.ks)]) + " |",
            "|---" * (len(self.ks) + 1) + "|",
        ]
        for metric in MEASURES:
            cells = [str(self.figures[f"{metric}@{k}"]) for k in self.ks]
            lines.append("| " + " | ".join([metric, *cells]) + " |")
        return "\n".join(lines)


def evaluate(
    retriever: Retriever,
    queries: Mapping[str, str],
    qrels: Qrels,
    ks: Sequence[int] = KS,
    *,
    query_embeddings: Float32Array | None = None,
) -> Report:
    """Retrieve for every judged query; a document counts once, by its best passage.

    `query_embeddings` (in the order of the judged queries) spares encoding them again.
    """
    measured = measure(retriever, queries, qrels, ks, query_embeddings=query_embeddings)
    return Report.of(measured, ks)


def measure(
    retriever: Retriever,
    queries: Mapping[str, str],
    qrels: Qrels,
    ks: Sequence[int],
    *,
    query_embeddings: Float32Array | None = None,
) -> Measured:
    """What `evaluate` sums up, query by query. Raises RetrievalError when none is judged."""
    judged = judged_queries(queries, qrels)
    if query_embeddings is None:
        query_embeddings = retriever.embedder.encode_queries(list(judged.values()))
    names = [f"{metric}@{k}" for metric in MEASURES for k in ks]
    table = np.empty((len(names), len(judged)))

    async def run_all(embeddings: Float32Array) -> None:
        for column, (query_id, query) in enumerate(judged.items()):
            found = await retriever.retrieve(
                query, max(DEPTH, *ks), query_embedding=embeddings[column]
            )
            run = list(dict.fromkeys(hit.passage.doc_id for hit in found.hits))
            table[:, column] = _column(run, qrels[query_id], ks)

    asyncio.run(run_all(query_embeddings))
    return Measured(names, table)


def judged_queries(queries: Mapping[str, str], qrels: Qrels) -> Queries:
    """Those that have a relevant document. Raises RetrievalError when none has."""
    judged = {id_: text for id_, text in queries.items() if any(qrels.get(id_, {}).values())}
    if not judged:
        raise RetrievalError("no query has a relevant document in the qrels")
    return judged


def _column(run: list[str], judged: Mapping[str, int], ks: Sequence[int]) -> list[float]:
    return [measure(run, judged, k) for measure in MEASURES.values() for k in ks]


def load_squad(path: str | Path) -> tuple[Queries, Qrels]:
    """Each question, and the one paragraph it was asked about."""
    queries: Queries = {}
    qrels: Qrels = {}
    for doc_id, _, paragraph in read_squad(Path(path)).paragraphs():
        for question in paragraph.qas:
            queries[question.id] = question.question
            qrels[question.id] = {doc_id: 1}
    return queries, qrels


def load_squad_answers(path: str | Path) -> dict[str, list[str]]:
    """Question id → its accepted answers."""
    return {
        question.id: [answer.text for answer in question.answers]
        for _, _, paragraph in read_squad(Path(path)).paragraphs()
        for question in paragraph.qas
    }


def load_qrels(directory: str | Path) -> tuple[Queries, Qrels]:
    """BEIR's form: queries.jsonl(.gz) and qrels.tsv with its header line.

    Raises RetrievalError naming the file and line that cannot be read.
    """
    directory = Path(directory)
    packed, plain = directory / "queries.jsonl.gz", directory / "queries.jsonl"
    try:
        return _load_queries(packed if packed.exists() else plain), _load_judgments(directory)
    except Unreadable as exc:
        raise RetrievalError(f"cannot evaluate with {directory}: {exc}") from exc


def _load_queries(path: Path) -> Queries:
    queries: Queries = {}
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            query = msgspec.json.decode(line, type=dict[str, object])
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise Unreadable(f"{path.name} line {number}: {exc}") from None
        query_id = query.get("id", query.get("_id"))
        if query_id is None or not isinstance(query.get("text"), str):
            raise Unreadable(f"{path.name} line {number}: no id or no text")
        queries[str(query_id)] = str(query["text"])
    return queries


def _load_judgments(directory: Path) -> Qrels:
    qrels: Qrels = {}
    for number, line in read_lines(directory / "qrels.tsv"):
        fields = decode(line).rstrip("\r").split("\t")
        if number == 1 or fields == [""]:
            continue
        try:
            query_id, doc_id, grade = fields
            qrels.setdefault(query_id, {})[doc_id] = int(grade)
        except ValueError:
            raise Unreadable(f"qrels.tsv line {number}: not query, document, grade") from None
    return qrels
