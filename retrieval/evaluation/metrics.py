"""Metrics of one ranking or one answer, and their means over many with bootstrap intervals."""

import math
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

RESAMPLES = 1000


class Figure(msgspec.Struct, frozen=True):
    """A mean over queries with its bootstrap 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"

    @property
    def signed(self) -> str:
        """For differences: the sign always shows."""
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


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
