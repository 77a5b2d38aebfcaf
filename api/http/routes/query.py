"""POST /query, /query/stream and /search; GET /query/stream/{id} goes on with a kept stream."""

from typing import Annotated, Any

from litestar import Request, Response, Router, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, HeaderParameter, JSONBody
from litestar.types import ASGIApp

from api.admission.caller import view_of
from api.admission.limits import NO_COST
from api.answering.answer import retrieve, scores_out
from api.answering.events import Event
from api.errors import ErrorBody
from api.http.admit import admitted_of, admitting
from api.http.asking import make_variant_context, open_answer
from api.http.body import JSONRequest
from api.http.edge import record_of
from api.http.kept_streams import KeptStream, KeptStreams, Owner, event_number
from api.http.openapi import ANSWER, ERROR_RESPONSES, EVENT_STREAM, AnswerStream
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
from api.runtime.service import Service
from retrieval.types import Hit


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
    events = open_answer(make_variant_context(request, data), service)
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
    events = open_answer(make_variant_context(request, data), service)
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
    service.metrics.observe_stages(retrieval.latency_ms)
    return SearchResponse(
        hits=[_hit_out(hit) for hit in retrieval.hits],
        latency_ms=record.end_stages(),
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
