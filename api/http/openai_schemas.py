"""The structs of OpenAI's chat completions: what comes in and what goes out.

https://platform.openai.com/docs/api-reference/chat. What we add stands under `ragrelay` alone.
Fields that would change the meaning of an answer and that we cannot honour are refused, all other
fields that we do not know are let pass: clients send many.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from api.answering.conversation import Turn
from api.answering.events import AnswerFacts, Source
from api.citations.types import Citation
from api.errors import Invalid
from api.http.schemas import Filters, TopK, check_filters

OWN_MODEL = "ragrelay"
"""Whichever engine is free."""
MAX_TOKENS = 1024


class ContentPart(msgspec.Struct, frozen=True):
    type: str
    text: str | None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """Other fields (`name`, and what we ourselves put on an answer) are let pass."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class RagOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    top_k: TopK | None = None
    filters: Filters = None

    def __post_init__(self) -> None:
        check_filters(self.filters)


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=1000)]
    model: Annotated[str, Meta(description="One of GET /v1/models")] = OWN_MODEL
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    """Both are an upper bound; ours of 1,024 holds as well."""
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    ragrelay: RagOptions | None = None
    n: int | None = None
    stop: Any = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    logit_bias: Any = None
    modalities: Any = None
    audio: Any = None
    web_search_options: Any = None


# What the fields may be that we cannot honour: values that ask for nothing. None always may.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "stop": ([],),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
}


def turns_of(request: ChatRequest) -> list[Turn]:
    """Return the messages as text. Raises Invalid for what has no meaning here."""
    for field, neutral in _NEUTRAL.items():
        value = getattr(request, field)
        if value is not None and value not in neutral:
            raise Invalid(f"{field}: not supported here, leave it out")
    return [Turn(message.role, _text(message, n)) for n, message in enumerate(request.messages)]


def _text(message: ChatMessage, n: int) -> str:
    if message.role in ("tool", "function"):
        raise Invalid(f"messages[{n}].role: tools are not supported here")
    if not isinstance(message.content, list):
        return message.content or ""
    for part in message.content:
        if part.type not in ("text", "refusal"):
            raise Invalid(f"messages[{n}].content: only text is supported here")
    return "\n".join(part.text or "" for part in message.content)


def longest_answer(request: ChatRequest) -> int | None:
    """Return how many tokens the answer may have; None takes the setting."""
    given = [n for n in (request.max_completion_tokens, request.max_tokens) if n is not None]
    return min([*given, MAX_TOKENS]) if given else None


class Model(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int = 0
    """Engines do not tell."""
    owned_by: str = OWN_MODEL


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[Model]


class OpenAIErrorDetail(msgspec.Struct, frozen=True):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(msgspec.Struct, frozen=True):
    error: OpenAIErrorDetail


class FileCitation(msgspec.Struct, frozen=True, kw_only=True):
    file_id: str
    """The `doc_id` of the source."""
    filename: str
    start_index: int
    end_index: int
    """Characters of the answer: the sentence that the source supports."""


class Annotation(msgspec.Struct, frozen=True, kw_only=True):
    type: Literal["file_citation"] = "file_citation"
    file_citation: FileCitation


class AssistantMessage(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: list[Annotation]


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    index: int = 0
    message: AssistantMessage
    logprobs: None = None
    finish_reason: str


class ChatUsage(msgspec.Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Extension(AnswerFacts, frozen=True, kw_only=True):
    """What an answer of ours has beside its text, as in POST /query."""

    sources: list[Source]
    citations: list[Citation]


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage
    ragrelay: Extension


class Delta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    role: str | None = None
    content: str | None = None
    annotations: list[Annotation] | None = None


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int = 0
    delta: Delta
    logprobs: None = None
    finish_reason: str | None = None


class ChatCompletionChunk(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: ChatUsage | None | msgspec.UnsetType = msgspec.UNSET
    """null but in the last chunk, and only where `stream_options.include_usage` asks for it."""
    ragrelay: Extension | msgspec.UnsetType = msgspec.UNSET
    """On the chunk with the finish reason."""
