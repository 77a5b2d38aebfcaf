"""Measure a running server: exact match and F1 of its answers, and whether citations hold.

Exact match and F1 as SQuAD has them; small models answer in sentences, so F1 tells more than EM.
Citations are judged where the answer is right: does a cited span hold the answer's place?
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import numpy as np

from api.citations.types import Citation
from api.evaluation.citations import Places, figure, held
from retrieval.evaluation.metrics import Figure, bootstrap, exact_match, f1

AT_ONCE = 4
LONGEST_QUERY = 512

Ask = Callable[[str], Mapping[str, Any] | None]
"""Returns what POST /query answers a question; None where it fails."""


class _Answered(msgspec.Struct, frozen=True):
    answer: str
    citations: list[Citation]


class AnswerReport(msgspec.Struct, frozen=True):
    n_questions: int
    n_failed: int
    exact: Figure
    f1: Figure
    precision: Figure
    """Of the sentences that hold the answer and are cited: whose best span holds its place."""
    recall: Figure
    """Of the right answers: that have a sentence with such a span."""

    def to_table(self) -> str:
        return (
            "| questions | failed | EM | F1 | citations: precision | recall |\n"
            "|---|---|---|---|---|---|\n"
            f"| {self.n_questions} | {self.n_failed} | {self.exact} | {self.f1} "
            f"| {self.precision} | {self.recall} |"
        )


def evaluate_answers(
    ask: Ask,
    queries: Mapping[str, str],
    accepted: Mapping[str, Sequence[str]],
    places: Mapping[str, Places],
) -> AnswerReport:
    """Ask every query, some at once; one that fails counts as wrong. Raises OSError if all fail."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answered = list(pool.map(lambda query: _answered(ask, query), queries.values()))
    if not any(answered):
        raise OSError("the server answered none of the questions")
    judged = [
        (body.answer if body else "", accepted[id])
        for id, body in zip(queries, answered, strict=True)
    ]
    exact, overlap = bootstrap(
        np.array([[metric(*each) for each in judged] for metric in (exact_match, f1)])
    )
    spans = [
        held(body.answer, body.citations, accepted[id], places[id])
        for id, body in zip(queries, answered, strict=True)
        if body
    ]
    return AnswerReport(
        n_questions=len(answered),
        n_failed=answered.count(None),
        exact=exact,
        f1=overlap,
        precision=figure(
            [share for cited in spans if cited for share in cited if share is not None]
        ),
        recall=figure([float(1.0 in cited) for cited in spans if cited]),
    )


def _answered(ask: Ask, query: str) -> _Answered | None:
    try:
        return msgspec.convert(ask(query[:LONGEST_QUERY]), _Answered)
    except msgspec.ValidationError:
        return None
