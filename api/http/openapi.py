"""What the OpenAPI document says beside the routes: errors, streams, an example, the API key.

OpenAPI 3.1 has no word for server-sent events; tools that know them check each event's fields.
"""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from litestar import MediaType
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    Example,
    OpenAPIMediaType,
    OpenAPIType,
    Operation,
    Schema,
    SecurityScheme,
)

from api.errors import ErrorBody

EVENT_STREAM = "text/event-stream"

ERROR_RESPONSES = {
    status: ResponseSpec(ErrorBody, generate_examples=False, description=text)
    for status, text in {
        400: "The body is not JSON",
        401: "Invalid or missing API key",
        403: "The key lacks the scope",
        413: "The body is too large",
        415: "The body is not declared as JSON",
        422: "A field is missing, unknown or out of its bound",
        429: "A limit, a budget or the engine is exhausted; see Retry-After",
        502: "The engine failed",
        503: "Loading, no index, no engine or no ledger; see Retry-After",
        504: "The answer took too long",
    }.items()
}

ANSWER = Example(
    summary="A question about two pages on Peru and tea",
    value={
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 155, "completion_tokens": 8, "estimated": False},
        "cost_eur": 0.00009,
        "latency_ms": {
            "auth": 0.03, "cache": 0.09, "embed": 14.2, "sparse": 0.11, "dense": 0.08,
            "fuse": 0.2, "prompt": 0.05, "queue": 0.01,
            "first_token": 812.4, "generation": 951.0, "total": 967.1,
        },
        "degraded": [],
        "request_id": "0b3ae687ef1f4a7bb04a98533728da21",
        "engine": "embedded",
        "model": "SmolLM2-135M-Instruct",
        "index_generation": "20261122T172239-8ddf12",
        "cache": {"kind": "none", "similarity": None, "age_s": None,
                  "entry_id": "5d0c21f5be8b4f7d8a1de2c45b61fc02:0f5a4c1d9a3e7b6624c8d1e2"},
        "dropped_markers": 0,
        "citations": [
            {
                "start": 0,
                "end": 32,
                "kind": "cited",
                "score": 1.0,
                "sources": [
                    {"n": 1, "doc_id": "lima.md", "passage_id": "lima.md:0", "start": 8, "end": 36}
                ],
            }
        ],
        "answer": "Lima is the capital of Peru [1].",
        "sources": [
            {
                "n": 1,
                "doc_id": "lima.md",
                "passage_id": "lima.md:0",
                "title": "Peru",
                "text": "# Peru\n\nLima is the capital of Peru.",
                "start": 0,
                "end": 36,
                "scores": {"dense": 0.71, "sparse": 1.22, "fused": 1.0, "rerank": None},
            }
        ],
    },
)  # fmt: skip
"""Of POST /query; a test keeps it to the schema."""


def describe_events(payload: Any, *names: str) -> OpenAPIMediaType:
    """Return the description of events of these names, whose data is `payload` as JSON."""
    fields: dict[str, Any] = {
        "data": Schema(
            type=OpenAPIType.STRING, content_media_type="application/json", content_schema=payload
        )
    }
    if names:
        fields["event"] = Schema(type=OpenAPIType.STRING, enum=list(names))
        fields["id"] = Schema(type=OpenAPIType.STRING)
    schema = Schema(type=OpenAPIType.OBJECT, properties=fields, required=["data"])
    return OpenAPIMediaType(schema=schema)


@dataclass
class AnswerStream(Operation):
    """An answer as our events; its response is declared as the JSON in their data."""

    def __post_init__(self) -> None:
        content = _content_of_200(self)
        payload = content[EVENT_STREAM].schema
        content[EVENT_STREAM] = describe_events(
            payload, "sources", "token", "citation", "done", "error"
        )


@dataclass
class ChatStream(Operation):
    """A chat completion, whole or streamed; declared as the one, then all that may be streamed."""

    def __post_init__(self) -> None:
        content = _content_of_200(self)
        whole, *streamed = content["application/json"].schema.one_of
        content["application/json"] = OpenAPIMediaType(schema=whole)
        content[EVENT_STREAM] = describe_events(Schema(one_of=streamed))


def _content_of_200(operation: Operation) -> dict[str, Any]:
    responses: Any = operation.responses
    content: dict[str, Any] = responses["200"].content
    return content


def openapi_config(auth_enabled: bool) -> OpenAPIConfig:
    """Return how the framework makes the document, and serves it at /schema."""
    key = SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header")
    return OpenAPIConfig(
        title="ragrelay",
        version=version("ragrelay"),
        description="Answers from your documents, through the engine of your choice.",
        components=Components(security_schemes={"key": key}),
        security=[{"key": []}] if auth_enabled else None,
        path="/schema",
        render_plugins=[JsonRenderPlugin(path="/", media_type=MediaType.JSON)],
    )
