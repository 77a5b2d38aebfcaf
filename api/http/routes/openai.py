"""POST /v1/chat/completions and GET /v1/models, as OpenAI's clients know them.

Answers are made as for /query: only what goes over the wire differs, errors too.
"""

from collections.abc import Sequence
from typing import Any

from litestar import Request, Response, Router, get, post
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, JSONBody
from litestar.types import ASGIApp

from api.admission.limits import NO_COST
from api.answering.context import AnswerContext
from api.answering.conversation import cut_history, read_conversation, with_wishes
from api.answering.request import AnswerRequest
from api.engines.client import Engine
from api.errors import RagError, retry_after
from api.http.admit import admitting
from api.http.asking import make_variant_context, open_answer
from api.http.body import JSONRequest
from api.http.edge import record_of
from api.http.openai_schemas import (
    OWN_MODEL,
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    Model,
    ModelList,
    OpenAIError,
    RagOptions,
    longest_answer,
    turns_of,
)
from api.http.openai_wire import ModelNotFound, OpenAIWire, refusal
from api.http.openapi import ERROR_RESPONSES, ChatStream
from api.http.responses import PlainAnswer, StreamedAnswer, note_failure
from api.runtime.service import Service

_ERRORS = {
    status: ResponseSpec(OpenAIError, generate_examples=False, description=spec.description)
    for status, spec in ERROR_RESPONSES.items()
    if status != 422
} | {404: ResponseSpec(OpenAIError, generate_examples=False, description="No such model")}


def _refuse(request: Request[Any, Any, Any], error: RagError) -> Response[OpenAIError]:
    note_failure(record_of(request.scope), error)
    status, body = refusal(error)
    return Response(body, status_code=status, headers=retry_after(error))


@post(
    "/v1/chat/completions",
    before_request=admitting("openai", "query"),
    status_code=200,
    summary="Answer the last question of a chat, as OpenAI's clients ask and read it",
    responses={
        200: ResponseSpec(
            ChatCompletion | ChatCompletionChunk | OpenAIError,  # type: ignore[arg-type]
            generate_examples=False,
            description="The completion, or with `stream` its chunks, [DONE] at the end",
        ),
        **_ERRORS,
    },
    operation_class=ChatStream,
)
async def post_chat(request: JSONRequest, data: JSONBody[ChatRequest]) -> ASGIApp:
    service: Service = request.app.state.service
    record = record_of(request.scope)
    events = open_answer(_make_context(request, data, service), service)
    options = data.stream_options
    wire = OpenAIWire(
        record.request_id,
        data.model,
        include_usage=options is not None and options.include_usage is True,
    )
    if not data.stream:
        return PlainAnswer(events, record, service.drain, wire)  # type: ignore[return-value]
    commit_s = service.settings.engine.commit_seconds
    return StreamedAnswer(events, record, service.drain, wire, commit_s=commit_s)  # type: ignore[return-value]


def _make_context(request: JSONRequest, data: ChatRequest, service: Service) -> AnswerContext:
    """Return the last question of a chat with all that its answer takes."""
    conversation = read_conversation(turns_of(data))
    pinned = _serving(data.model, service.engines.all)
    options = data.ragrelay or RagOptions()
    question = AnswerRequest(
        query=conversation.question,
        history=conversation.history,
        top_k=options.top_k,
        filters=options.filters,
        max_tokens=longest_answer(data),
        temperature=data.temperature,
    )
    context = make_variant_context(request, question, pinned=pinned)
    return with_wishes(cut_history(context, conversation.wishes), conversation.wishes)


def _serving(model: str, engines: Sequence[Engine]) -> str | None:
    """Return the least loaded engine that serves a model; None where all do.

    Raises ModelNotFound.
    """
    serving = [engine for engine in engines if model in (OWN_MODEL, engine.model)]
    if not serving:
        raise ModelNotFound("the model does not exist: see GET /v1/models")
    if len(serving) == len(engines):
        return None
    return min(serving, key=lambda engine: engine.in_flight).name


@get(
    "/v1/models",
    before_request=admitting("openai", "query", NO_COST),
    summary="The models that may be asked for",
    responses=_ERRORS,
)
async def get_models(state: State) -> ModelList:
    return ModelList(data=_models(state.service))


@get(
    "/v1/models/{model_id:path}",
    before_request=admitting("openai", "query", NO_COST),
    summary="One of them",
    responses=_ERRORS,
)
async def get_model(state: State, model_id: FromPath[str]) -> Model:
    for model in _models(state.service):
        if model.id == str(model_id).removeprefix("/"):
            return model
    raise ModelNotFound("the model does not exist: see GET /v1/models")


def _models(service: Service) -> list[Model]:
    ids = dict.fromkeys([OWN_MODEL, *(engine.model for engine in service.engines.all)])
    return [Model(id=id) for id in ids]


router = Router(
    path="/",
    route_handlers=[post_chat, get_models, get_model],
    exception_handlers={RagError: _refuse},
    tags=["openai"],
)
