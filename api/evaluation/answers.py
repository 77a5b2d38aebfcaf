"""How good the answers of a running server are, and whether their citations hold.

Exact match and F1 as SQuAD has them; small models answer in sentences, so F1 tells more than EM.
Citations are judged where the answer is right: does a cited span hold the answer's place?
"""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np

from api.citations.types import Citation
from api.evaluation.citations import Places, figure, held
from retrieval.evaluation.metrics import Figure, bootstrap, exact_match, f1

AT_ONCE = 4
TIMEOUT_S = 300


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
    url: str,
    key: str,
    queries: Mapping[str, str],
    accepted: Mapping[str, Sequence[str]],
    places: Mapping[str, Places],
) -> AnswerReport:
    """Ask the server every query; one that fails counts as wrong. Raises OSError if none answers.

    `url` is the server's base address.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answered = list(pool.map(lambda query: _ask(url, key, query), queries.values()))
    if not any(answered):
        raise OSError(f"no question was answered by {url}")
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


def _ask(url: str, key: str, query: str) -> _Answered | None:
    request = urllib.request.Request(
        f"{url.rstrip('/')}/query",
        json.dumps({"query": query[:512]}).encode(),
        {"Content-Type": "application/json", **({"X-API-Key": key} if key else {})},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return msgspec.json.decode(response.read(), type=_Answered)
    except (urllib.error.URLError, msgspec.DecodeError, TimeoutError):
        return None
