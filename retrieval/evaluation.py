"""How good is retrieval: recall@k, MRR@k, nDCG@k with intervals; EM and F1 for answers."""

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from retrieval.corpora import read_squad
from retrieval.reading import Unreadable, decode, read_lines
from retrieval.retriever import DEPTH, Retriever
from retrieval.types import Float32Array, RetrievalError

Queries = dict[str, str]
Qrels = dict[str, dict[str, int]]
"""query id → doc_id → grade (0: not relevant)."""

KS = (1, 5, 10, 20, 100)
RESAMPLES = 1000
METRICS = ("nDCG", "MRR", "recall")


class Figure(msgspec.Struct, frozen=True):
    """A mean over queries with its bootstrap 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Report(msgspec.Struct, frozen=True):
    n_queries: int
    ks: tuple[int, ...]
    figures: dict[str, Figure]
    """By name: "nDCG@10", "MRR@10", "recall@10"."""

    def to_table(self) -> str:
        """Markdown, one row a metric."""
        lines = [
            "| " + " | ".join([f"{self.n_queries} queries", *(f"@{k}" for k in self.ks)]) + " |",
            "|---" * (len(self.ks) + 1) + "|",
        ]
        for metric in METRICS:
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
    judged = [query_id for query_id in queries if any(qrels.get(query_id, {}).values())]
    if not judged:
        raise RetrievalError("no query has a relevant document in the qrels")
    if query_embeddings is None:
        query_embeddings = retriever.embedder.encode_queries([queries[id_] for id_ in judged])
    index = retriever.index
    doc_ids = [index.store[row].doc_id for row in range(len(index))]
    names = [f"{metric}@{k}" for metric in METRICS for k in ks]
    table = np.empty((len(names), len(judged)))
    for column, query_id in enumerate(judged):
        sparse_scores = index.sparse.scores(queries[query_id])
        ranking = retriever.rank(
            index, query_embeddings[column], sparse_scores, depth=max(DEPTH, *ks)
        )
        run = list(dict.fromkeys(doc_ids[row] for row in ranking.rows.tolist()))
        table[:, column] = _row(run, qrels[query_id], ks)
    figures = zip(names, bootstrap(table), strict=True)
    return Report(len(judged), tuple(ks), dict(figures))


def _row(run: list[str], judged: Mapping[str, int], ks: Sequence[int]) -> list[float]:
    measures = (ndcg_at, mrr_at, recall_at)
    return [measure(run, judged, k) for measure in measures for k in ks]


def recall_at(run: Sequence[str], judged: Mapping[str, int], k: int) -> float:
    """Share of the relevant documents that are among the first k."""
    relevant = {doc_id for doc_id, grade in judged.items() if grade > 0}
    return len(relevant.intersection(run[:k])) / len(relevant)


def mrr_at(run: Sequence[str], judged: Mapping[str, int], k: int) -> float:
    """1 / rank of the first relevant document, 0 if it is not among the first k."""
    ranks = (rank for rank, doc_id in enumerate(run[:k], 1) if judged.get(doc_id, 0) > 0)
    return 1 / next(ranks, math.inf)


def ndcg_at(run: Sequence[str], judged: Mapping[str, int], k: int) -> float:
    """DCG with linear gains (trec_eval's ndcg_cut) over that of the ideal ranking."""
    ideal = sorted((grade for grade in judged.values() if grade > 0), reverse=True)
    return _dcg([max(judged.get(doc_id, 0), 0) for doc_id in run[:k]]) / _dcg(ideal[:k])


def _dcg(grades: Sequence[int]) -> float:
    return sum(grade / math.log2(rank + 1) for rank, grade in enumerate(grades, 1))


def bootstrap(
    table: npt.NDArray[np.float64], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Figure]:
    """One figure a row of (metrics, queries): queries are drawn again, with replacement."""
    rng = np.random.default_rng(seed)
    n_queries = table.shape[1]
    means = np.empty((resamples, table.shape[0]))
    for resample in range(resamples):
        means[resample] = table[:, rng.integers(n_queries, size=n_queries)].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    columns = zip(table.mean(axis=1).tolist(), low.tolist(), high.tolist(), strict=True)
    return [Figure(*column) for column in columns]


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


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(answer: str) -> str:
    """SQuAD's: lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, accepted: Iterable[str]) -> float:
    return float(any(normalize_answer(answer) == normalize_answer(gold) for gold in accepted))


def f1(answer: str, accepted: Iterable[str]) -> float:
    """Of the words, the best over the accepted answers."""
    return max((_f1(answer, gold) for gold in accepted), default=0.0)


def _f1(answer: str, gold: str) -> float:
    words, gold_words = normalize_answer(answer).split(), normalize_answer(gold).split()
    if not words or not gold_words:
        return float(words == gold_words)
    common = sum((Counter(words) & Counter(gold_words)).values())
    return 2 * common / (len(words) + len(gold_words))
