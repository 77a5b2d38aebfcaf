"""What the query log keeps of an answer or of feedback: as it waits to be written, and as a row.

Noting is on the way of every answer: it keeps what is there and leaves all conversion to the
writer.
"""

import time
from typing import Any, ClassVar

import msgspec
from sqlalchemy import Table

from api.admission.caller import PUBLIC, Caller
from api.log.tables import ANSWERS, FEEDBACK, ID_STEPS
from api.telemetry.record import Record

MAX_QUESTION = 8_000
MAX_ANSWER = 32_000
"""Characters; what is longer is cut."""
MAX_PASSAGES = 32
MAX_COUNT = 2**31 - 1
"""Engines report what they like; the columns hold 32 bits."""
DONT_KNOW = "I don't know"
"""What the model is told to say when the passages do not hold the answer."""


class Ended(msgspec.Struct, frozen=True):
    """An answer that has ended."""

    at_ns: int
    """time.time_ns()"""
    total_ms: float
    record: Record
    caller: Caller

    table: ClassVar[Table] = ANSWERS

    @property
    def tenant(self) -> str:
        return self.caller.tenant

    @property
    def request_id(self) -> str:
        return self.record.request_id

    def row(self, number: int) -> dict[str, Any]:
        """Return the row as drivers take it; `number` tells apart what ended in one microsecond."""
        record, caller = self.record, self.caller
        outcome = record.outcome or "ok"
        return {
            "id": self.at_ns // 1000 * ID_STEPS + number % ID_STEPS,
            "at": self.at_ns / 1e9,
            "request_id": record.request_id,
            "tenant": _text(caller.tenant, 128),
            "key_id": caller.key_id[:64],
            "endpoint": record.endpoint[:64],
            "outcome": outcome,
            "error": record.error,
            "unanswered": outcome == "ok" and _is_unanswered(record),
            "engine": record.engine[:64],
            "model": _text(record.model, 256),
            "prompt_version": record.prompt_version,
            "experiment": record.experiment,
            "variant": record.variant,
            "generation": record.generation[:64],
            "cache": record.cache,
            "total_ms": round(self.total_ms, 2),
            "first_token_ms": record.stages_ms.get("first_token"),
            "stages_ms": _json(record.latency_ms()),
            "prompt_tokens": min(record.prompt_tokens, MAX_COUNT),
            "completion_tokens": min(record.completion_tokens, MAX_COUNT),
            "cost_eur": record.cost_eur,
            "passage_ids": _json([_text(id, 512) for id in record.passage_ids[:MAX_PASSAGES]]),
            "question": _text(record.question, MAX_QUESTION) if record.question else None,
            "answer": _text(record.answer, MAX_ANSWER) if record.question else None,
        }


class Judged(msgspec.Struct, frozen=True):
    """What a person says of an answer; said again it replaces what was said before."""

    at_ns: int
    tenant: str
    key_id: str
    request_id: str
    rating: str
    reason: str | None
    correct_answer: str | None

    table: ClassVar[Table] = FEEDBACK

    def row(self, number: int) -> dict[str, Any]:
        return {
            "tenant": _text(self.tenant, 128),
            "request_id": _text(self.request_id, 64),
            "key_id": self.key_id[:64],
            "at": self.at_ns / 1e9,
            "rating": self.rating,
            "reason": _text(self.reason, MAX_QUESTION) if self.reason else None,
            "correct_answer": (
                _text(self.correct_answer, MAX_QUESTION) if self.correct_answer else None
            ),
        }


Noted = Ended | Judged


def ended(record: Record, caller: Caller | None) -> Ended:
    return Ended(time.time_ns(), record.elapsed_ms(), record, caller or PUBLIC)


def judged(
    caller: Caller,
    request_id: str,
    rating: str,
    *,
    reason: str | None = None,
    correct_answer: str | None = None,
    keeps_text: bool,
) -> Judged:
    return Judged(
        time.time_ns(),
        caller.tenant,
        caller.key_id,
        request_id,
        rating,
        reason if keeps_text else None,
        correct_answer if keeps_text else None,
    )


def _is_unanswered(record: Record) -> bool:
    return not record.passage_ids or record.answer.startswith(DONT_KNOW)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _text(text: str, at_most: int) -> str:
    """Return what PostgreSQL takes: no NUL, no half of a surrogate pair."""
    if text.isascii() and "\0" not in text:
        return text[:at_most]
    return text[:at_most].replace("\0", "").encode("utf-8", "replace").decode()
