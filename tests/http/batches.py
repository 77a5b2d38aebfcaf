"""Questions for a batch, and what is read of its answer."""

from typing import Any

from tests.support.harness import QUESTION

FRANCE = QUESTION["query"]
PERU = "What is the capital of Peru?"
TEA = "How is green tea brewed?"


def statuses(body: dict[str, Any]) -> list[int]:
    return [result["status"] for result in body["results"]]
