"""How streams stand in the OpenAPI document: an event's fields, and the JSON in its `data`.

OpenAPI 3.1 has no word for server-sent events; tools that know them check each event's fields.
"""

from dataclasses import dataclass
from typing import Any

from litestar.openapi.spec import OpenAPIMediaType, OpenAPIType, Operation, Schema

EVENT_STREAM = "text/event-stream"


def described(payload: Any, *names: str) -> OpenAPIMediaType:
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
        content[EVENT_STREAM] = described(payload, "sources", "token", "citation", "done", "error")


@dataclass
class ChatStream(Operation):
    """A chat completion, whole or streamed; declared as the one, then all that may be streamed."""

    def __post_init__(self) -> None:
        content = _content_of_200(self)
        whole, *streamed = content["application/json"].schema.one_of
        content["application/json"] = OpenAPIMediaType(schema=whole)
        content[EVENT_STREAM] = described(Schema(one_of=streamed))


def _content_of_200(operation: Operation) -> dict[str, Any]:
    responses: Any = operation.responses
    content: dict[str, Any] = responses["200"].content
    return content
