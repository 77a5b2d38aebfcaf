"""The streams of real engines, byte by byte, as data for the scripted engine.

TGI 3.3.7 (axum framing, empty ids, repeated role, usage after the finish chunk), vLLM 0.33
(role-only first chunk, absent fields), llama.cpp b11434 (null first content, timings, EOF after an
error), and how each says that it is full, loading, or asked too much.
"""

import json
from collections.abc import Callable, Sequence

import msgspec

from tests.support.engine.scripted import DONE, Exchange, Script

MODEL = "Qwen/Qwen2.5-3B-Instruct"


def frame(payload: dict) -> bytes:
    return (
        b"data: "
        + json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()
        + (b"\n\n")
    )


def counts(prompt_tokens: int, pieces: Sequence[str]) -> dict[str, int]:
    n = len(pieces)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": n,
        "total_tokens": prompt_tokens + n,
    }


def tgi_stream(pieces: Sequence[str], finish_reason: str = "stop") -> list[bytes]:
    def chunk(content: str, finish: str | None) -> bytes:
        delta = {"role": "assistant", "content": content}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return frame({**common, "choices": [choice], "usage": None})

    common = {
        "object": "chat.completion.chunk",
        "id": "",
        "created": 1741265133,
        "model": MODEL,
        "system_fingerprint": "3.3.6-dev0-sha-dfb3fbe",
    }
    parts = [b":\n\n", *(chunk(piece, None) for piece in pieces), chunk("", finish_reason)]
    return [*parts, frame({**common, "choices": [], "usage": counts(39, pieces)}), DONE]


def vllm_stream(pieces: Sequence[str], finish_reason: str = "stop") -> list[bytes]:
    common = {
        "id": "chatcmpl-9f",
        "object": "chat.completion.chunk",
        "created": 1764000000,
        "model": MODEL,
    }
    role = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None,
            "finish_reason": None}  # fmt: skip
    parts = [frame({**common, "choices": [role], "prompt_token_ids": None})]
    for n, piece in enumerate(pieces):
        finish = finish_reason if n == len(pieces) - 1 else None
        choice = {"index": 0, "delta": {"content": piece}, "logprobs": None,
                  "finish_reason": finish, "token_ids": None}  # fmt: skip
        parts.append(frame({**common, "choices": [choice]}))
    return [*parts, frame({**common, "choices": [], "usage": counts(39, pieces)}), DONE]


def llamacpp_stream(pieces: Sequence[str], finish_reason: str = "stop") -> list[bytes]:
    common = {
        "created": 1764000000, "id": "chatcmpl-Yb", "model": MODEL,
        "system_fingerprint": "b11434", "object": "chat.completion.chunk",
    }  # fmt: skip

    def chunk(delta: dict, finish: str | None = None) -> bytes:
        return frame({"choices": [{"finish_reason": finish, "index": 0, "delta": delta}], **common})

    usage = {**counts(39, pieces), "prompt_tokens_details": {"cached_tokens": 0}}
    return [
        chunk({"role": "assistant", "content": None}),
        *(chunk({"content": piece}) for piece in pieces),
        chunk({}, finish_reason),
        frame({"choices": [], **common, "usage": usage, "timings": {"prompt_n": 39}}),
        DONE,
    ]


class Spoken(msgspec.Struct, frozen=True, kw_only=True):
    """How one engine behaves on the wire."""

    stream: Callable[..., list[bytes]]
    facts: dict[str, object]
    overloaded: Script
    too_long: Script
    loading: Script | None
    broken: Sequence[bytes]
    """What follows a token when generation fails."""
    sends_model: bool


def in_stream(*parts: bytes) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.head()
        for part in parts:
            await exchange.send(part)

    return script


def answer_json(status: int, body: object) -> Script:
    async def script(exchange: Exchange) -> None:
        await exchange.json(status, body)

    return script


def tgi_error(message: str) -> bytes:
    return frame({"error": {"message": message, "http_status_code": 422}})


def openai_error(status: int, message: str, kind: str) -> Script:
    error = {"message": message, "type": kind, "param": None, "code": status}
    return answer_json(status, {"error": error})


TOO_LONG_TGI = (
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. "
    "Given: 5000 `inputs` tokens and 80 `max_new_tokens`"
)
TOO_LONG_VLLM = (
    "This model's maximum context length is 4096 tokens. However, you requested 80 output tokens "
    "and your prompt contains at least 4017 input tokens."
)
MODELS = {
    "object": "list",
    "data": [{"id": MODEL, "object": "model", "created": 1764000000, "owned_by": "vllm",
              "root": MODEL, "parent": None, "max_model_len": 4096, "permission": []}],
}  # fmt: skip

DIALECTS: dict[str, Spoken] = {
    "tgi": Spoken(
        stream=tgi_stream,
        facts={
            "/info": {
                "model_id": MODEL, "model_sha": None, "model_pipeline_tag": None,
                "max_concurrent_requests": 128, "max_best_of": 2, "max_stop_sequences": 4,
                "max_input_tokens": 4095, "max_total_tokens": 4096, "validation_workers": 2,
                "max_client_batch_size": 4, "router": "text-generation-router",
                "version": "3.3.6-dev0", "sha": None, "docker_label": None,
            },
        },
        overloaded=in_stream(tgi_error("Model is overloaded"), DONE),
        too_long=in_stream(tgi_error(TOO_LONG_TGI), DONE),
        loading=None,  # the port opens when all is loaded: refused before
        broken=[tgi_error("Request failed during generation: CUDA error"), DONE],
        sends_model=False,
    ),
    "vllm": Spoken(
        stream=vllm_stream,
        facts={"/v1/models": MODELS},
        overloaded=openai_error(503, "Too many queued requests", "Service Unavailable"),
        too_long=openai_error(400, TOO_LONG_VLLM, "BadRequestError"),
        loading=None,
        broken=[frame({"error": {"message": "EngineCore died", "type": "InternalServerError",
                                 "param": None, "code": 500}}), DONE],
        sends_model=True,
    ),
    "llamacpp": Spoken(
        stream=llamacpp_stream,
        facts={
            "/v1/models": MODELS,
            "/props": {"default_generation_settings": {"n_ctx": 4096}, "total_slots": 2},
        },
        overloaded=openai_error(429, "too many requests", "server_error"),
        too_long=answer_json(400, {"error": {
            "code": 400, "message": "the request exceeds the available context size (5000 tokens), "
            "try increasing it", "type": "exceed_context_size_error", "n_prompt_tokens": 5000,
            "n_ctx": 4096}}),
        loading=openai_error(503, "Loading model", "unavailable_error"),
        broken=[frame({"error": {"code": 500, "message": "bad", "type": "server_error"}})],
        sends_model=True,
    ),
}  # fmt: skip
