"""Recall and false hits of the answer cache, by threshold, on files of labelled question pairs.

Every pair goes through the product's own rules: admission, the exact form, the threshold, the
vetoes. JSON lines, plain or .gz, with `a` (cached), `b` (asked), `label` (1: one answer serves
both) and perhaps `category`. Three forms, told apart by what is in them: pairs; positives alone,
where every `a` is indexed, every `b` looked up and a hit on another row's `a` is false; and
conversations, whose `a` and `b` are lists of messages.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from api.cache.admissible import admit_question, normalise
from api.cache.features import read_question
from api.cache.partition import history_key
from api.cache.semantic import SemanticIndex
from api.cache.vetoes import veto
from retrieval.reading.bounded import Unreadable, read_lines
from retrieval.types import Float32Array

Encode = Callable[[Sequence[str]], Float32Array]

THRESHOLDS = (0.85, 0.88, 0.90, 0.92, 0.95)
CURVE = tuple(round(0.70 + step / 100, 2) for step in range(30))
EXACT = 2.0
"""The score of a pair that the exact layer serves: above every threshold."""
NEVER = -2.0
_FLOOR = 0.5
"""Below this cosine nobody serves a pair; its vetoes are not worth their time."""


class Rate(msgspec.Struct, frozen=True):
    """k of n, with the exact (Clopper-Pearson) 95 % interval of the rate."""

    k: int
    n: int

    @property
    def value(self) -> float:
        return self.k / self.n if self.n else math.nan

    @property
    def low(self) -> float:
        return _interval(self.k, self.n)[0]

    @property
    def high(self) -> float:
        return _interval(self.k, self.n)[1]

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]" if self.n else "–"


@lru_cache
def _interval(k: int, n: int) -> tuple[float, float]:
    from scipy.stats import binomtest  # slow to import: 0.6 to 2.4 s

    if not n:
        return 0.0, 1.0
    low, high = binomtest(k, n).proportion_ci(0.95, method="exact")
    return float(low), float(high)


class Message(msgspec.Struct, frozen=True):
    role: str
    content: str


class Pair(msgspec.Struct, frozen=True):
    a: str | list[Message]
    b: str | list[Message]
    label: Literal[0, 1]
    category: str = "all"


class Judged(msgspec.Struct, frozen=True):
    """One pair or lookup: it is served at every threshold up to `score`."""

    category: str
    is_trap: bool
    score: float


class Cases(msgspec.Struct, frozen=True):
    """The judged pairs of one file."""

    name: str
    judged: list[Judged]

    def served(self, threshold: float, *, traps: bool, category: str | None = None) -> Rate:
        scores = [
            case.score
            for case in self.judged
            if case.is_trap == traps and category in (None, case.category)
        ]
        return Rate(sum(score >= threshold for score in scores), len(scores))

    def categories(self) -> list[tuple[bool, str]]:
        found = dict.fromkeys((case.is_trap, case.category) for case in self.judged)
        return sorted(found)


class Report(msgspec.Struct, frozen=True):
    files: list[Cases]
    thresholds: tuple[float, ...]

    def to_table(self) -> str:
        """Markdown: rates by file and category, then each file's whole curve."""
        return "\n\n".join(
            part for cases in self.files for part in (self._rates(cases), self._curve(cases))
        )

    def _rates(self, cases: Cases) -> str:
        lines = [_row([cases.name, "n", *(f"{t:.2f}" for t in self.thresholds)]), _rule(2, self)]
        for is_trap, name in (
            (False, "recall (should hit)"),
            (True, "false hits (traps)"),
        ):
            of_kind = [category for trap, category in cases.categories() if trap == is_trap]
            if not of_kind:
                continue
            lines.append(self._rate_row(cases, f"**{name}**", is_trap, None))
            if len(of_kind) > 1:
                lines += [self._rate_row(cases, c, is_trap, c) for c in of_kind]
        return "\n".join(lines)

    def _rate_row(self, cases: Cases, name: str, is_trap: bool, category: str | None) -> str:
        rates = [cases.served(t, traps=is_trap, category=category) for t in self.thresholds]
        return _row([name, str(rates[0].n), *map(str, rates)])

    def _curve(self, cases: Cases) -> str:
        lines = [
            _row([f"{cases.name}: threshold", "hit ratio", "precision", "recall", "false hits"]),
            "|---" * 5 + "|",
        ]
        for threshold in CURVE:
            right = cases.served(threshold, traps=False)
            wrong = cases.served(threshold, traps=True)
            hits = right.k + wrong.k
            precision = f"{right.k / hits:.4f}" if hits else "–"
            ratio = f"{hits / max(1, right.n + wrong.n):.4f}"
            shares = [f"{rate.value:.4f}" if rate.n else "–" for rate in (right, wrong)]
            lines.append(_row([f"{threshold:.2f}", ratio, precision, *shares]))
        return "\n".join(lines)


def evaluate_pairs(
    paths: Iterable[Path], encode: Encode, thresholds: Sequence[float] = THRESHOLDS
) -> Report:
    """`encode` gives unit vectors (n, dim), as the cache embeds. Raises Unreadable."""
    return Report([judge_file(path, encode) for path in paths], tuple(thresholds))


def judge_file(path: Path, encode: Encode) -> Cases:
    pairs = read_pairs(path)
    if not isinstance(pairs[0].a, str):
        judged = [_judge_conversation(pair) for pair in pairs]
    elif all(pair.label for pair in pairs):
        judged = _judge_lookups(pairs, encode)
    else:
        judged = judge_pairs(pairs, encode)
    return Cases(path.name.removesuffix(".gz").removesuffix(".jsonl"), judged)


def read_pairs(path: Path) -> list[Pair]:
    """Raises Unreadable, naming the line."""
    decoder = msgspec.json.Decoder(Pair)
    pairs: list[Pair] = []
    for number, line in read_lines(path):
        if not line.strip():
            continue
        try:
            pairs.append(decoder.decode(line))
        except msgspec.DecodeError as exc:
            raise Unreadable(f"line {number}: {exc}") from None
    if not pairs:
        raise Unreadable("no pairs in it")
    return pairs


def judge_pairs(pairs: Sequence[Pair], encode: Encode) -> list[Judged]:
    """Each pair on its own: would `b` be served with the answer to `a`?"""
    a, b = _embed(pairs, encode)
    cosines = np.einsum("nd,nd->n", a, b)
    return [
        Judged(pair.category, not pair.label, _score(str(pair.a), str(pair.b), float(cosine)))
        for pair, cosine in zip(pairs, cosines, strict=True)
    ]


def _score(a: str, b: str, cosine: float) -> float:
    admitted_a, admitted_b = admit_question(a), admit_question(b)
    if not (admitted_a.exact and admitted_b.exact):
        return NEVER
    if normalise(a) == normalise(b):
        return EXACT
    if cosine < _FLOOR or not (admitted_a.semantic and admitted_b.semantic):
        return NEVER
    return NEVER if veto(read_question(a), read_question(b)) else cosine


def _judge_lookups(pairs: Sequence[Pair], encode: Encode) -> list[Judged]:
    """All `a` cached, each `b` asked: served right, wrong, or not at all."""
    a, b = _embed(pairs, encode)
    index = SemanticIndex(a.shape[1])
    for row, embedding in enumerate(a):
        index.add(str(row), embedding, expires_at=1.0)
    judged: list[Judged] = []
    for row, pair in enumerate(pairs):
        score, found = NEVER, row
        for near in index.search(b[row], _FLOOR, now=0.0):
            found = int(near.id)
            score = _score(str(pairs[found].a), str(pair.b), near.similarity)
            if score != NEVER:
                break
        is_right = found == row or normalise(str(pairs[found].a)) == normalise(str(pair.a))
        judged.append(Judged(pair.category, False, score if is_right else NEVER))
        judged.append(Judged(pair.category, True, NEVER if is_right else score))
    return judged


def _judge_conversation(pair: Pair) -> Judged:
    """A question with a history is served by the exact layer alone, after the same history."""
    turns = [
        [(message.role, message.content) for message in side]
        for side in (pair.a, pair.b)
        if not isinstance(side, str)
    ]
    questions = [side[-1][1] for side in turns]
    histories = [history_key(side[:-1]) for side in turns]
    is_same = histories[0] == histories[1] and normalise(questions[0]) == normalise(questions[1])
    return Judged(pair.category, not pair.label, EXACT if is_same else NEVER)


def _embed(pairs: Sequence[Pair], encode: Encode) -> tuple[Float32Array, Float32Array]:
    texts = list(dict.fromkeys(str(text) for pair in pairs for text in (pair.a, pair.b)))
    rows = {text: row for row, text in enumerate(texts)}
    embeddings = encode(texts)
    a: Any = embeddings[[rows[str(pair.a)] for pair in pairs]]
    b: Any = embeddings[[rows[str(pair.b)] for pair in pairs]]
    return a, b


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _rule(n_left: int, report: Report) -> str:
    return "|---" * (n_left + len(report.thresholds)) + "|"
