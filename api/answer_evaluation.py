"""How good the answers of a running server are: exact match and F1 against accepted answers.

Metrics as SQuAD has them; small models answer in sentences, so F1 tells more than EM.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np

from retrieval.metrics import Figure, bootstrap, exact_match, f1

AT_ONCE = 4
TIMEOUT_S = 300


class AnswerReport(msgspec.Struct, frozen=True):
    n_questions: int
    n_failed: int
    exact: Figure
    f1: Figure

    def to_table(self) -> str:
        return (
            "| questions | failed | EM | F1 |\n|---|---|---|---|\n"
            f"| {self.n_questions} | {self.n_failed} | {self.exact} | {self.f1} |"
        )


def evaluate_answers(
    url: str, key: str, queries: Mapping[str, str], accepted: Mapping[str, Sequence[str]]
) -> AnswerReport:
    """Ask the server every query; one that fails counts as wrong. Raises OSError if none answers.

    `url` is the server's base address.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda query: _answer(url, key, query), queries.values()))
    if not any(answers):
        raise OSError(f"no question was answered by {url}")
    judged = [(answer or "", accepted[id]) for id, answer in zip(queries, answers, strict=True)]
    exact, overlap = bootstrap(
        np.array([[metric(*each) for each in judged] for metric in (exact_match, f1)])
    )
    return AnswerReport(len(answers), answers.count(None), exact, overlap)


def _answer(url: str, key: str, query: str) -> str | None:
    request = urllib.request.Request(
        f"{url.rstrip('/')}/query",
        json.dumps({"query": query[:512]}).encode(),
        {"Content-Type": "application/json", **({"X-API-Key": key} if key else {})},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            answer: str = json.load(response)["answer"]
            return answer
    except (urllib.error.URLError, ValueError, KeyError, TimeoutError):
        return None
