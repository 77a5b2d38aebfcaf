"""Write an answer as OpenAI's chat completion, whole or in chunks, and errors as OpenAI does.

The structs are in `openai_schemas.py`. A stream that broke off ends in an error and never in
`[DONE]`: clients take that for the end of a whole answer.
"""

import re
import time
from collections.abc import Sequence

import msgspec

from api import sse
from api.answering.events import AnswerFacts, Done, Event, Source, Sources, Token
from api.citations.types import Citation
from api.errors import Invalid, NotFound, RagError, answer_for
from api.http.openai_schemas import (
    Annotation,
    AssistantMessage,
    ChatCompletion,
    ChatCompletionChunk,
    ChatUsage,
    Choice,
    ChunkChoice,
    Delta,
    Extension,
    FileCitation,
    OpenAIError,
    OpenAIErrorDetail,
)
from api.http.schemas import QueryResponse

DONE = b"data: [DONE]\n\n"


class ModelNotFound(NotFound):
    """`model` is none of GET /v1/models."""


class OpenAIWire:
    """One chat completion. `model` is the one that was asked for."""

    def __init__(self, request_id: str, model: str, *, include_usage: bool = False) -> None:
        self._id = f"chatcmpl-{request_id}"
        self._model = model
        self._created = int(time.time())
        self._include_usage = include_usage
        self._sources: list[Source] = []
        self._citations: list[Citation] = []
        # A chunk of text less its text: encoding it whole would cost several times as much.
        empty = self._chunk([ChunkChoice(delta=Delta(content="\x00"))])
        self._before, self._after = sse.encode_json(empty).split(b'"\\u0000"')

    def whole(self, response: QueryResponse) -> object:
        marked = annotations(response.citations, response.sources)
        message = AssistantMessage(content=response.answer, annotations=marked)
        return ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=[Choice(message=message, finish_reason=_finish_reason(response))],
            usage=_usage(response),
            ragrelay=_extension(response, response.sources, response.citations),
        )

    def frame(self, event: Event) -> bytes:
        match event:
            case Token(token):
                return b"data: %b%b%b\n\n" % (self._before, sse.encode_json(token), self._after)
            case Citation():
                self._citations.append(event)
                return b""
            case Sources(sources):
                self._sources = sources
                begun = ChunkChoice(delta=Delta(role="assistant", content=""))
                return _data(self._chunk([begun]))
            case Done():
                return self._end(event)

    def error_frame(self, error: BaseException) -> bytes:
        _, body = refusal(error)
        return _data(body)

    def refusal(self, error: BaseException) -> tuple[int, object]:
        return refusal(error)

    def _end(self, done: Done) -> bytes:
        """Return the chunk with the finish reason, the one with the usage, and the end mark."""
        marked = annotations(self._citations, self._sources) or None
        last = ChunkChoice(delta=Delta(annotations=marked), finish_reason=_finish_reason(done))
        finish = msgspec.structs.replace(
            self._chunk([last]), ragrelay=_extension(done, self._sources, self._citations)
        )
        if not self._include_usage:
            return _data(finish) + DONE
        counted = msgspec.structs.replace(self._chunk([]), usage=_usage(done))
        return _data(finish) + _data(counted) + DONE

    def _chunk(self, choices: list[ChunkChoice]) -> ChatCompletionChunk:
        return ChatCompletionChunk(
            id=self._id,
            created=self._created,
            model=self._model,
            choices=choices,
            usage=None if self._include_usage else msgspec.UNSET,
        )


def _data(payload: object) -> bytes:
    return b"data: %b\n\n" % sse.encode_json(payload)


# OpenAI's words for what its clients tell apart; beside these our own codes stand as they are.
_CODES: dict[str, tuple[int, str]] = {
    "invalid": (400, "invalid_value"),
    "prompt_too_long": (400, "context_length_exceeded"),
    "unauthorized": (401, "invalid_api_key"),
    "rate_limited": (429, "rate_limit_exceeded"),
    "budget_exhausted": (429, "insufficient_quota"),
}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_PARAM = re.compile(r"([a-z_]+(?:\[[^\]]*\])?(?:\.[a-z_]+)*): ")


def refusal(error: BaseException) -> tuple[int, OpenAIError]:
    """Return status and body as OpenAI's clients read them."""
    row = answer_for(error)
    status, code = _CODES.get(row.code, (row.status, row.code))
    if isinstance(error, ModelNotFound):
        code = "model_not_found"
    default = "server_error" if status >= 500 else "invalid_request_error"
    message = error.message if isinstance(error, RagError) else "Internal error"
    named = _PARAM.match(message) if isinstance(error, Invalid) else None
    detail = OpenAIErrorDetail(
        message=message,
        type=_TYPES.get(status, default),
        param="model" if isinstance(error, ModelNotFound) else named and named.group(1),
        code=code,
    )
    return status, OpenAIError(detail)


def annotations(citations: Sequence[Citation], sources: Sequence[Source]) -> list[Annotation]:
    """Return one for each source of each sentence; a cached source is a dict."""
    titles = {source["n"]: source["title"] for source in msgspec.to_builtins(sources)}
    return [
        Annotation(
            file_citation=FileCitation(
                file_id=span.doc_id,
                filename=titles[span.n],
                start_index=citation.start,
                end_index=citation.end,
            )
        )
        for citation in citations
        for span in citation.sources
    ]


def _extension(facts: AnswerFacts, sources: list[Source], citations: list[Citation]) -> Extension:
    own = {name: getattr(facts, name) for name in AnswerFacts.__struct_fields__}
    return Extension(sources=sources, citations=citations, **own)


def _finish_reason(facts: AnswerFacts) -> str:
    return "length" if facts.finish_reason == "length" else "stop"


def _usage(facts: AnswerFacts) -> ChatUsage:
    prompt, completion = facts.usage.prompt_tokens, facts.usage.completion_tokens
    return ChatUsage(
        prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion
    )
