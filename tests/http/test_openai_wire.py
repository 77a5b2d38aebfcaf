"""Our events and errors in OpenAI's words."""

import json

import pytest

from api.answering.events import Done, ScoresOut, Source, Sources, Token
from api.citations.types import Citation, CitedSpan
from api.errors import (
    BudgetExhausted,
    DeadlineExceeded,
    EngineDown,
    Forbidden,
    Invalid,
    Malformed,
    PromptTooLong,
    RateLimited,
    Unauthorized,
)
from api.http.openai_wire import ModelNotFound, OpenAIWire, annotations, refusal
from api.usage import Usage
from tests.http.chats import chunks


@pytest.mark.parametrize(
    ("error", "status", "kind", "param", "code"),
    [
        (Invalid("a[0].b: bad"), 400, "invalid_request_error", "a[0].b", "invalid_value"),
        (Invalid("no field here"), 400, "invalid_request_error", None, "invalid_value"),
        (Malformed("x"), 400, "invalid_request_error", None, "malformed"),
        (PromptTooLong("x"), 400, "invalid_request_error", None, "context_length_exceeded"),
        (Unauthorized("x"), 401, "authentication_error", None, "invalid_api_key"),
        (Forbidden("x"), 403, "permission_error", None, "forbidden"),
        (ModelNotFound("x"), 404, "invalid_request_error", "model", "model_not_found"),
        (RateLimited("x"), 429, "rate_limit_error", None, "rate_limit_exceeded"),
        (BudgetExhausted("x"), 429, "rate_limit_error", None, "insufficient_quota"),
        (EngineDown("x"), 503, "server_error", None, "engine_down"),
        (DeadlineExceeded("x"), 504, "server_error", None, "deadline"),
        (KeyError("secret"), 500, "server_error", None, "internal"),
    ],
)
def test_error_has_openai_status_type_and_code(
    error: Exception, status: int, kind: str, param: str | None, code: str
) -> None:
    told_status, body = refusal(error)
    assert (told_status, body.error.type, body.error.param, body.error.code) == (
        status,
        kind,
        param,
        code,
    )
    assert "secret" not in body.error.message


def source(n: int) -> Source:
    return Source(
        n=n, doc_id=f"d{n}", passage_id=f"d{n}:0", title=f"T{n}", text="x", start=0, end=1,
        scores=ScoresOut(1.0, None, 1.0),
    )  # fmt: skip


def citation(start: int, end: int, *numbers: int) -> Citation:
    spans = [CitedSpan(n=n, doc_id=f"d{n}", passage_id=f"d{n}:0", start=0, end=1) for n in numbers]
    return Citation(start=start, end=end, kind="inferred", score=1.0, sources=spans)


def test_annotations_are_the_sources_of_each_sentence() -> None:
    citations = [citation(0, 5, 2), citation(6, 9), citation(10, 12, 1, 2)]
    found = [a.file_citation for a in annotations(citations, [source(1), source(2)])]
    assert [(c.filename, c.file_id, c.start_index, c.end_index) for c in found] == [
        ("T2", "d2", 0, 5),
        ("T1", "d1", 10, 12),
        ("T2", "d2", 10, 12),
    ]


def test_wire_quotes_what_a_model_name_may_hold() -> None:
    wire = OpenAIWire("r", 'odd "name" \\ {}', include_usage=True)
    wire.frame(Sources([]))
    chunk = json.loads(wire.frame(Token('say "x"')).removeprefix(b"data: "))
    assert chunk["model"] == 'odd "name" \\ {}'
    assert chunk["choices"][0]["delta"] == {"content": 'say "x"'}
    done = Done(
        finish_reason="stop", usage=Usage(prompt_tokens=1, completion_tokens=2), latency_ms={},
        degraded=[], request_id="r", engine="e", model="m", index_generation="g",
    )  # fmt: skip
    assert [chunk and len(chunk["choices"]) for chunk in chunks(wire.frame(done))] == [1, 0, None]
