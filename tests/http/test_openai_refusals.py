"""The OpenAI routes: fields let pass, requests refused, engines that fail."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.settings.types import Secret
from tests.http.chats import CHAT, JSON, MODEL, PATH, QUESTION, STREAM, chunks, text_of
from tests.support.engine import DONE, FakeEngine, delta, event, sending
from tests.support.harness import Answered, Client, live, settings_for
from tests.support.waiting import eventually

HARMLESS: list[dict[str, Any]] = [
    {"user": "u1", "seed": 7, "store": False, "metadata": {"a": "b"}, "service_tier": "auto"},
    {"top_p": 1, "frequency_penalty": 0, "presence_penalty": 0, "parallel_tool_calls": True},
    {"n": 1, "stop": None, "tools": [], "tool_choice": "none", "logprobs": False, "logit_bias": {}},
    {"response_format": {"type": "text"}, "modalities": ["text"], "top_logprobs": None},
    {"stream": None, "stream_options": None, "temperature": None, "something_of_tomorrow": [1]},
    {"messages": [QUESTION | {"name": "ann"}]},
    {"model": MODEL},
]


@pytest.mark.parametrize("extra", HARMLESS, ids=lambda extra: ",".join(extra))
def test_chat_harmless_fields_are_let_pass(client: Client, extra: dict) -> None:
    assert client.post(PATH, CHAT | extra).status == 200


REFUSED: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({"tools": [{"type": "function"}]}, 400, "tools", "invalid_value"),
    ({"tool_choice": "required"}, 400, "tool_choice", "invalid_value"),
    ({"functions": [{}]}, 400, "functions", "invalid_value"),
    ({"n": 2}, 400, "n", "invalid_value"),
    ({"stop": "END"}, 400, "stop", "invalid_value"),
    ({"logprobs": True}, 400, "logprobs", "invalid_value"),
    ({"logit_bias": {"5": 1}}, 400, "logit_bias", "invalid_value"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format", "invalid_value"),
    ({"modalities": ["audio"]}, 400, "modalities", "invalid_value"),
    ({"messages": []}, 400, "messages", "invalid_value"),
    ({"messages": [{"role": "system", "content": "x"}]}, 400, "messages", "invalid_value"),
    ({"messages": [QUESTION, {"role": "tool", "content": "x"}]}, 400, "messages[1].role",
     "invalid_value"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400,
     "messages[0].content", "invalid_value"),
    ({"messages": [{"role": "user", "content": "x" * 8001}]}, 400, "messages[0].content",
     "invalid_value"),
    ({"messages": [{"role": "king", "content": "x"}]}, 400, "messages[0].role", "invalid_value"),
    ({"temperature": 3}, 400, "temperature", "invalid_value"),
    ({"max_tokens": 0}, 400, "max_tokens", "invalid_value"),
    ({"ragrelay": {"top_k": 99}}, 400, "ragrelay.top_k", "invalid_value"),
    ({"ragrelay": {"topk": 9}}, 400, "ragrelay.topk", "invalid_value"),
    ({"model": "gpt-5"}, 404, "model", "model_not_found"),
]  # fmt: skip


@pytest.mark.parametrize("is_streamed", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize(("extra", "status", "param", "code"), REFUSED)
def test_chat_that_cannot_be_honoured_is_refused_in_openai_words(
    client: Client,
    engine: FakeEngine,
    extra: dict,
    status: int,
    param: str | None,
    code: str,
    is_streamed: bool,
) -> None:
    answered = client.post(PATH, CHAT | {"stream": is_streamed} | extra)
    error = answered.error()
    assert answered.status == status
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert engine.chats == []


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", JSON, 400, "malformed"),
        (b"\xff", JSON, 400, "malformed"),
        (b"[" * 60_000, JSON, 400, "malformed"),
        (b"{}", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        (b" " * 70_000, JSON, 413, "too_large"),
    ],
)
def test_chat_body_bad_is_refused_in_openai_words(
    client: Client, body: bytes, headers: dict, status: int, code: str
) -> None:
    answered = client.request("POST", PATH, body, headers)
    assert (answered.status, answered.error()["code"]) == (status, code)
    assert answered.error()["type"] == "invalid_request_error"
    assert "x-request-id" in answered.headers


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failing", "status", "code", "kind"),
    [
        (sending(status=429), 429, "engine_overloaded", "rate_limit_error"),
        (sending(status=401), 502, "engine_auth", "server_error"),
        (sending(b"data: oops\n\n"), 502, "engine_error", "server_error"),
        (sending(event({"error": {"message": "tokens must be <= 9 max_new_tokens"}})), 400,
         "context_length_exceeded", "invalid_request_error"),
    ],
)  # fmt: skip
def test_chat_engine_fails_before_a_token_has_its_status(
    client: Client, engine: FakeEngine, failing, status: int, code: str, kind: str, stream: bool
) -> None:
    engine.script = failing
    answered = client.post(PATH, CHAT | {"stream": stream})
    assert answered.status == status
    assert (answered.error()["code"], answered.error()["type"]) == (code, kind)
    assert ("retry-after" in answered.headers) == (status == 429)


def test_chat_stream_engine_fails_after_a_token_ends_in_an_error_without_done(
    client: Client, engine: FakeEngine
) -> None:
    engine.script = sending(delta("Paris"), event({"error": {"message": "CUDA"}}), DONE)
    answered = client.post(PATH, STREAM)
    stream = chunks(answered.body)
    assert answered.status == 200
    assert text_of(stream[:-1]) == "Paris"
    assert stream[-1] == {
        "error": {
            "message": "the engine failed to answer",
            "type": "server_error",
            "param": None,
            "code": "engine_error",
        }
    }


@pytest.fixture(scope="module")
def locked(_engine: FakeEngine, index_dir: Path) -> Iterator[Client]:
    auth = {"enabled": True, "api_key": Secret("the-only-key-0123456789-abcdef")}
    with live(settings_for(_engine.url, index_dir, auth=auth)) as (client, _):
        yield client


def test_key_as_bearer_or_header_is_admitted_and_others_told_in_openai_words(
    locked: Client, engine: FakeEngine
) -> None:
    key = "the-only-key-0123456789-abcdef"
    for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}):
        assert locked.post(PATH, CHAT, headers).status == 200
        assert locked.get("/v1/models", headers).status == 200
    refused: list[Answered] = [
        locked.post(PATH, CHAT, {"Authorization": "Bearer wrong"}),
        locked.post(PATH, CHAT),
        locked.get("/v1/models"),
    ]
    for answered in refused:
        assert answered.status == 401
        assert answered.error()["code"] == "invalid_api_key"
        assert answered.error()["type"] == "authentication_error"


def test_limit_reached_is_429_in_openai_words(index_dir: Path, engine: FakeEngine) -> None:
    limit = {"enabled": True, "query_per_minute": 1}
    with live(settings_for(engine.url, index_dir, limit=limit)) as (client, _):
        assert client.post(PATH, CHAT).status == 200
        refused = client.post(PATH, CHAT)
        assert (refused.status, refused.error()["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/v1/models").status == 200


def test_chat_while_loading_is_503_in_openai_words(tmp_path: Path, engine: FakeEngine) -> None:
    with live(settings_for(engine.url, tmp_path), wait=False) as (client, _):
        eventually(lambda: client.post(PATH, CHAT).error()["code"] == "no_index", within_s=60)
        answered = client.post(PATH, CHAT)
        assert (answered.status, answered.error()["type"]) == (503, "server_error")
        assert "retry-after" in answered.headers
