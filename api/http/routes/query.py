"""POST /query, /query/stream, /search: decode, call, return. GET takes a kept stream up again."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from litestar import Request, Response, Router, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, HeaderParameter, JSONBody
from litestar.types import ASGIApp

from api.admission.caller import ALL_SCOPES, Caller, view_of
from api.admission.limits import NO_COST
from api.answering.answer import answer, retrieve, scores_out
from api.answering.cache_request import CacheControl
from api.answering.cached import reply
from api.answering.context import AnswerContext
from api.answering.events import Event
from api.answering.experiments import with_variant
from api.answering.follow_up import condensed, is_follow_up
from api.answering.request import AnswerRequest
from api.errors import ErrorBody, Forbidden
from api.http.admit import admitted_of, admitting
from api.http.body import JSONRequest
from api.http.edge import headers_of, record_of
from api.http.examples import ANSWER
from api.http.kept_streams import KeptStream, KeptStreams, Owner, event_number
from api.http.openapi import EVENT_STREAM, AnswerStream
from api.http.responses import PlainAnswer, StreamedAnswer
from api.http.schemas import (
    QueryRequest,
    QueryResponse,
    SearchHit,
    SearchRequest,
    SearchResponse,
    StreamRequest,
)
from api.http.wire import OwnWire
from api.log.rows import with_text
from api.runtime.service import Service
from retrieval.types import Hit

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


def pinned_engine(name: str | None, caller: Caller, service: Service) -> str | None:
    """Return the engine that X-Engine names. Raises Invalid, or Forbidden for lack of scopes."""
    if name is None:
        return None
    if caller.scopes < ALL_SCOPES:
        raise Forbidden("X-Engine needs a key with all scopes")
    return service.engines[name].name


def asking(
    request: Request[Any, Any, Any],
    inquiry: AnswerRequest,
    service: Service,
    *,
    pinned: str | None = None,
) -> AnswerContext:
    """Return the question of a request, with all that its answer takes.

    `pinned` is the engine that is to answer where X-Engine names none. A question for an engine
    that its caller chose takes part in no experiment.
    """
    ask = asking_alike(request, inquiry, service, pinned=pinned)
    experiment = service.experiment
    if experiment is None or ask.pinned:
        return ask
    return experiment.applied(ask, experiment.chosen(ask))


def asking_alike(
    request: Request[Any, Any, Any],
    inquiry: AnswerRequest,
    service: Service,
    *,
    pinned: str | None = None,
) -> AnswerContext:
    """Return the question as it is asked outside of any experiment."""
    scope = request.scope
    record, stages, admitted = record_of(scope), service.stages(), admitted_of(request)
    left_s = stages.deadline_s - record.elapsed_ms() / 1000
    return AnswerContext(
        request=inquiry,
        record=record,
        stages=stages,
        admitted=admitted,
        deadline=asyncio.get_running_loop().time() + left_s,
        pinned=pinned_engine(headers_of(scope).get("x-engine"), admitted.caller, service) or pinned,
        view=view_of(admitted.caller, inquiry.filters),
    )


def answered(
    request: Request[Any, Any, Any], ask: AnswerContext, service: Service
) -> AsyncGenerator[Event]:
    """Return the events that answer a question as the request's headers wish."""
    record = ask.record
    record.prompt_version = ask.stages.prompts.version
    record.experiment, record.variant = ask.experiment, ask.variant
    caching = service.caching()
    wish = CacheControl.of(headers_of(request.scope).get("cache-control", ""))

    def made(ask: AnswerContext) -> AsyncGenerator[Event]:
        return answer(ask) if caching is None else reply(ask, caching=caching, wish=wish)

    events = condensed(ask, made) if is_follow_up(ask.request) else made(ask)
    if ask.experiment:
        events = with_variant(events, ask)
    if service.log is None or not service.log.keeps_text:
        return events
    return with_text(events, record, ask.request.query)


@post(
    "/query",
    before_request=admitting("query", "query"),
    status_code=200,
    summary="Answer a question from the documents",
    responses={
        200: ResponseSpec(QueryResponse, generate_examples=False, examples=[ANSWER]),
        **ERROR_RESPONSES,
    },
)
async def post_query(request: JSONRequest, data: JSONBody[QueryRequest]) -> ASGIApp:
    service: Service = request.app.state.service
    events = answered(request, asking(request, data, service), service)
    return PlainAnswer(events, record_of(request.scope), service.drain)  # type: ignore[return-value]


STREAM_RESPONSE = ResponseSpec(
    Event | ErrorBody,  # type: ignore[arg-type]
    generate_examples=False,
    media_type=EVENT_STREAM,
    description="The answer's events",
)
LastEventId = Annotated[
    str | None,
    HeaderParameter(name="Last-Event-ID", description="Of the last whole event that was received"),
]


@post(
    "/query/stream",
    before_request=admitting("stream", "query"),
    status_code=200,
    summary="The same as server-sent events: sources, token, citation, done or error",
    responses={200: STREAM_RESPONSE, **ERROR_RESPONSES},
    operation_class=AnswerStream,
)
async def post_query_stream(request: JSONRequest, data: JSONBody[StreamRequest]) -> ASGIApp:
    service: Service = request.app.state.service
    record = record_of(request.scope)
    commit_s = service.settings.engine.commit_seconds
    events = answered(request, asking(request, data, service), service)
    if data.resume:
        streams: KeptStreams = request.app.state.kept_streams
        kept = streams.keep(events, _owner(request), record.request_id)
        if kept is not None:
            return _reading(request, kept, sent=0, commit_s=commit_s)
    return StreamedAnswer(events, record, service.drain, commit_s=commit_s)  # type: ignore[return-value]


@get(
    "/query/stream/{resume_id:str}",
    before_request=admitting("stream", "query", NO_COST),
    summary="Go on reading a stream that was asked for with `resume`, after its Last-Event-ID",
    responses={
        200: STREAM_RESPONSE,
        204: ResponseSpec(None, description="The stream has ended and was read to its end"),
        404: ResponseSpec(ErrorBody, generate_examples=False, description="No such stream"),
        **ERROR_RESPONSES,
    },
    operation_class=AnswerStream,
)
async def get_query_stream(
    request: Request[Any, Any, Any], resume_id: FromPath[str], last_event_id: LastEventId = None
) -> ASGIApp:
    streams: KeptStreams = request.app.state.kept_streams
    kept = streams.find(resume_id, _owner(request))
    sent = event_number(last_event_id)
    if not kept.has_after(sent):
        return Response(None, status_code=204)  # type: ignore[return-value]
    return _reading(request, kept, sent=sent, commit_s=0)


def _owner(request: Request[Any, Any, Any]) -> Owner:
    caller = admitted_of(request).caller
    return caller.tenant, caller.key_id


def _reading(
    request: Request[Any, Any, Any], kept: KeptStream, *, sent: int, commit_s: float
) -> ASGIApp:
    service: Service = request.app.state.service
    streams: KeptStreams = request.app.state.kept_streams
    record = record_of(request.scope)
    record.headers = [*record.headers, (b"x-resume-id", kept.id.encode())]
    events, wire = streams.read(kept, sent), OwnWire(kept.request_id, sent=sent)
    return StreamedAnswer(events, record, service.drain, wire, commit_s=commit_s)  # type: ignore[return-value]


@post(
    "/search",
    before_request=admitting("search", "query"),
    status_code=200,
    summary="Find passages without asking the engine",
    responses=ERROR_RESPONSES,
)
async def post_search(request: JSONRequest, data: JSONBody[SearchRequest]) -> SearchResponse:
    record = record_of(request.scope)
    service: Service = request.app.state.service
    view = view_of(admitted_of(request).caller, data.filters)
    finding = service.loader.retriever().retrieve(data.query, data.top_k, view=view)
    retrieval = await retrieve(finding, record)
    record.stages_ms["total"] = record.elapsed_ms()
    service.metrics.observe_stages(retrieval.latency_ms)
    return SearchResponse(
        hits=[_hit_out(hit) for hit in retrieval.hits],
        latency_ms={stage: round(ms, 2) for stage, ms in record.stages_ms.items()},
        request_id=record.request_id,
        index_generation=retrieval.generation,
    )


def _hit_out(hit: Hit) -> SearchHit:
    passage = hit.passage
    return SearchHit(
        rank=hit.rank,
        scores=scores_out(hit),
        doc_id=passage.doc_id,
        passage_id=passage.passage_id,
        title=passage.title,
        text=passage.text,
        start=passage.start,
        end=passage.end,
        metadata=passage.metadata,
    )


router = Router(
    path="/",
    route_handlers=[post_query, post_query_stream, get_query_stream, post_search],
    tags=["answers"],
)
