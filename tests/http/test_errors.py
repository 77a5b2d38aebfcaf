"""DESIGN's error table: every way to ask wrongly, and the engine's ways to fail before a token."""

import json

import pytest

from api.errors import ERRORS, ErrorBody, RagError, answer_for
from tests.support.engine import DONE, Exchange, FakeEngine, Script, delta, event, sending
from tests.support.harness import QUESTION, Client, frames

OK = b'{"query": "What is the capital of France?"'
JSON = {"Content-Type": "application/json"}

BAD_BODIES = [
    ("empty body", b"", 400, "malformed", ""),
    ("no JSON", b"{", 400, "malformed", "JSON"),
    ("invalid UTF-8", b'{"query": "\xff\xfe what"}', 400, "malformed", "UTF-8"),
    ("overlong UTF-8", b'{"query": "what \xc0\xaf is"}', 400, "malformed", "UTF-8"),
    ("lone surrogate", b'{"query": "what \\ud800 is"}', 400, "malformed", ""),
    ("too deep", b"[" * 60_000, 400, "malformed", ""),
    ("too deep in a field", b'{"history": ' + b"[" * 50_000 + b"}", 400, "malformed", "deep"),
    ("an array", b"[]", 422, "invalid", "object"),
    ("a string", b'"what is this"', 422, "invalid", "object"),
    ("NaN", OK + b', "temperature": NaN}', 400, "malformed", ""),
    ("no query", b"{}", 422, "invalid", "query: required"),
    ("null query", b'{"query": null}', 422, "invalid", "query"),
    ("number as query", b'{"query": 5}', 422, "invalid", "query"),
    ("query too short", b'{"query": "hi"}', 422, "invalid", ">= 3"),
    ("blank query", b'{"query": "      "}', 422, "invalid", "3 characters"),
    ("query too long", json.dumps({"query": "x" * 513}).encode(), 422, "invalid", "<= 512"),
    ("NUL", b'{"query": "what\\u0000 is"}', 422, "invalid", "control"),
    ("escape", b'{"query": "what \\u001b[2J is"}', 422, "invalid", "control"),
    ("C1 control", '{"query": "what \u009b is"}'.encode(), 422, "invalid", "control"),
    ("unknown field", OK + b', "topk": 3}', 422, "invalid", "topk: no such field"),
    ("top_k zero", OK + b', "top_k": 0}', 422, "invalid", "top_k"),
    ("top_k too large", OK + b', "top_k": 21}', 422, "invalid", "<= 20"),
    ("top_k as string", OK + b', "top_k": "3"}', 422, "invalid", "top_k"),
    ("top_k a fraction", OK + b', "top_k": 2.5}', 422, "invalid", "top_k"),
    ("top_k huge", OK + b', "top_k": ' + b"9" * 400 + b"}", 422, "invalid", "top_k"),
    ("top_k true", OK + b', "top_k": true}', 422, "invalid", "top_k"),
    ("max_tokens zero", OK + b', "max_tokens": 0}', 422, "invalid", "max_tokens"),
    ("max_tokens too large", OK + b', "max_tokens": 1025}', 422, "invalid", "<= 1024"),
    ("temperature below", OK + b', "temperature": -0.1}', 422, "invalid", "temperature"),
    ("temperature above", OK + b', "temperature": 2.1}', 422, "invalid", "temperature"),
    ("history no list", OK + b', "history": {}}', 422, "invalid", "history"),
    ("history role", OK + b', "history": [{"role": "system", "content": "x"}]}', 422, "invalid",
     "role"),
    ("history empty turn", OK + b', "history": [{"role": "user", "content": ""}]}', 422, "invalid",
     "content"),
    ("history turn unknown field",
     OK + b', "history": [{"role": "user", "content": "x", "name": "y"}]}', 422, "invalid", "name"),
    ("too many turns",
     OK + b', "history": ' + json.dumps([{"role": "user", "content": "x"}] * 21).encode() + b"}",
     422, "invalid", "history"),
    ("turn too long",
     OK + b', "history": ' + json.dumps([{"role": "user", "content": "x" * 8001}]).encode() + b"}",
     422, "invalid", "8000"),
    ("body too large", b'{"query": "' + b"x" * 70_000 + b'"}', 413, "too_large", "API_BODY_LIMIT"),
]  # fmt: skip


@pytest.mark.parametrize("path", ["/query", "/query/stream"])
@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [row[1:] for row in BAD_BODIES],
    ids=[row[0] for row in BAD_BODIES],
)
def test_body_bad_is_refused_with_its_row(
    client: Client, engine: FakeEngine, path: str, body: bytes, status: int, code: str, says: str
) -> None:
    answered = client.request("POST", path, body, JSON)
    assert (answered.status, answered.error()["code"]) == (status, code)
    assert says in answered.error()["message"]
    assert engine.chats == []


SEARCH_BODIES = [
    (b'{"query": "what", "top_k": 101}', 422, "<= 100"),
    (b'{"query": "what", "top_k": 0}', 422, "top_k"),
    (b'{"query": "hi"}', 422, "query"),
    (b'{"query": "what", "max_tokens": 5}', 422, "max_tokens: no such field"),
    (b"nothing", 400, "JSON"),
]


@pytest.mark.parametrize(("body", "status", "says"), SEARCH_BODIES)
def test_search_bad_body_is_refused(client: Client, body: bytes, status: int, says: str) -> None:
    answered = client.request("POST", "/search", body, JSON)
    assert answered.status == status
    assert says in answered.error()["message"]


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_body_not_declared_as_json_is_415(client: Client, content_type: str) -> None:
    answered = client.request("POST", "/query", OK + b"}", {"Content-Type": content_type})
    assert (answered.status, answered.error()["code"]) == (415, "unsupported_media_type")


def test_body_json_with_charset_is_taken(client: Client) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert client.request("POST", "/query", OK + b"}", headers).status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/docs/../settings.py", 404, "not_found"),
        ("GET", "/docs/LICENSE", 404, "not_found"),
        ("GET", "/query", 405, "method_not_allowed"),
        ("DELETE", "/search", 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
    ],
)
def test_route_or_method_unknown_has_our_error_body(
    client: Client, method: str, path: str, status: int, code: str
) -> None:
    answered = client.request(method, path)
    assert (answered.status, answered.error()["code"]) == (status, code)


def test_error_body_has_every_field_and_the_request_id(client: Client) -> None:
    answered = client.post("/query", {}, {"X-Request-ID": "my-id.1"})
    body = answered.json()
    assert body["error"] == {
        "code": "invalid",
        "message": "query: required",
        "request_id": "my-id.1",
        "retryable": False,
    }
    assert body["detail"] == "query: required"
    assert answered.headers["x-request-id"] == "my-id.1"


@pytest.mark.parametrize("given", ["a" * 65, "with space", "new\tline", "ümlaut", ""])
def test_request_id_harmful_is_replaced(client: Client, given: str) -> None:
    raw = given.encode().decode("latin-1")
    found = client.get("/health", {"X-Request-ID": raw}).headers["x-request-id"]
    assert found != given
    assert len(found) == 32


def test_request_id_reaches_engine_and_done(client: Client, engine: FakeEngine) -> None:
    answered = client.post("/query", QUESTION, {"X-Request-ID": "abc_1"})
    assert answered.json()["request_id"] == "abc_1"
    assert engine.chats[0].headers["x-request-id"] == "abc_1"


def json_error(status: int, body: object) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.json(status, body)

    return script


async def close_at_once(exchange: Exchange) -> None:
    pass


TOO_LONG = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 9000"
ENGINE_FAILURES: list[tuple[str, Script, int, str]] = [
    ("TGI overload in a 200", sending(event({"error": {"message": "Model is overloaded",
     "http_status_code": 422}}), DONE), 429, "engine_overloaded"),
    ("TGI validation in a 200", sending(event({"error": {"message": TOO_LONG,
     "http_status_code": 422}}), DONE), 422, "prompt_too_long"),
    ("old TGI error shape", sending(event({"error": "Model is overloaded",
     "error_type": "overloaded"})), 429, "engine_overloaded"),
    ("generation error in a 200", sending(event({"error": {"message": "CUDA error"}})), 502,
     "engine_error"),
    ("TGI 429", json_error(429, {"error": "Model is overloaded", "error_type": "overloaded"}), 429,
     "engine_overloaded"),
    ("llama.cpp loading", json_error(503, {"error": {"message": "Loading model", "code": 503,
     "type": "unavailable_error"}}), 503, "engine_down"),
    ("vLLM context", json_error(400, {"error": {"message": "This model's maximum context length is "
     "4096 tokens", "type": "BadRequestError"}}), 422, "prompt_too_long"),
    ("key refused", json_error(401, {"error": "Unauthorized"}), 502, "engine_auth"),
    ("key forbidden", json_error(403, {}), 502, "engine_auth"),
    ("unknown model", json_error(404, {"error": {"message": "The model does not exist"}}), 502,
     "engine_error"),
    ("engine 500", json_error(500, {"error": {"message": "boom"}}), 502, "engine_error"),
    ("plain text 422", json_error(422, "Failed to deserialize"), 502, "engine_error"),
    ("garbage", sending(b"data: {oops\n\n"), 502, "engine_error"),
    ("JSON of another shape", sending(b'data: {"choices": 5}\n\n'), 502, "engine_error"),
    ("bad UTF-8", sending(b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n'), 502,
     "engine_error"),
    ("10 MB line", sending(b"data: " + b"x" * 10_000_000), 502, "engine_error"),
    ("empty stream", sending(), 502, "engine_disconnect"),
    ("only [DONE]", sending(DONE), 502, "engine_disconnect"),
    ("closed before the head", close_at_once, 503, "engine_down"),
]  # fmt: skip


@pytest.mark.parametrize("path", ["/query", "/query/stream"])
@pytest.mark.parametrize(
    ("script", "status", "code"),
    [row[1:] for row in ENGINE_FAILURES],
    ids=[row[0] for row in ENGINE_FAILURES],
)
def test_engine_fails_before_a_token_has_its_status(
    client: Client, engine: FakeEngine, path: str, script: Script, status: int, code: str
) -> None:
    engine.script = script
    answered = client.post(path, QUESTION)
    assert (answered.status, answered.error()["code"]) == (status, code)
    assert ("retry-after" in answered.headers) == (status in (429, 503))


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (sending(delta("Paris"), event({"error": {"message": "CUDA error"}}), DONE),
         "engine_error"),
        (sending(delta("Paris")), "engine_disconnect"),
        (sending(delta("Paris"), DONE), "engine_disconnect"),
        (sending(delta("Paris"), b"data: oops\n\n"), "engine_error"),
    ],
    ids=["error event", "cut", "[DONE] without finish", "garbage"],
)  # fmt: skip
def test_stream_engine_fails_after_a_token_ends_in_an_error_event(
    client: Client, engine: FakeEngine, script: Script, code: str
) -> None:
    engine.script = script
    answered = client.post("/query/stream", QUESTION)
    stream = frames(answered.body)
    assert answered.status == 200
    assert [frame.event for frame in stream] == ["sources", "token", "error"]
    assert stream[-1].data["error"]["code"] == code
    assert stream[-1].data["error"]["retryable"] is True


def test_query_engine_cut_after_a_token_is_no_answer(client: Client, engine: FakeEngine) -> None:
    engine.script = sending(delta("Paris"))
    answered = client.post("/query", QUESTION)
    assert (answered.status, answered.error()["code"]) == (502, "engine_disconnect")


def test_errors_every_class_has_its_row() -> None:
    classes, todo = set(), [RagError]
    while todo:
        todo += (cls := todo.pop()).__subclasses__()
        classes.add(cls)
    ours = {cls for cls in classes if cls.__module__ == RagError.__module__}  # others inherit
    assert ours - {RagError} == set(ERRORS)


def test_errors_bug_is_500_without_its_text() -> None:
    body = ErrorBody.of(KeyError("secret"), "id")
    assert answer_for(KeyError()).status == 500
    assert body.error.code == "internal"
    assert "secret" not in body.detail
