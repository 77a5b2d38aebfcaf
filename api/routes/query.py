"""POST /query, /query/stream, /search: decode, call, return."""

import asyncio
from collections.abc import AsyncGenerator

from litestar import Router, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody
from litestar.types import ASGIApp

from api.admission.caller import ALL_SCOPES, Caller
from api.answer import answer, retrieve, scores_out
from api.body import JSONRequest
from api.edge import headers_of, record_of
from api.errors import ErrorBody, Forbidden
from api.examples import ANSWER
from api.question import Wish
from api.reply import reply
from api.routes.guard import admitted_of, admitting
from api.schemas import (
    Event,
    QueryRequest,
    QueryResponse,
    SearchHit,
    SearchRequest,
    SearchResponse,
)
from api.service import Service
from api.stages import Ask
from api.streaming import PlainAnswer, StreamedAnswer
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


def answered(request: JSONRequest, data: QueryRequest, service: Service) -> AsyncGenerator[Event]:
    """Return the events that answer this request."""
    scope = request.scope
    headers, record, stages = headers_of(scope), record_of(scope), service.stages()
    admitted = admitted_of(request)
    left_s = stages.deadline_s - record.elapsed_ms() / 1000
    ask = Ask(
        request=data,
        record=record,
        stages=stages,
        admitted=admitted,
        deadline=asyncio.get_running_loop().time() + left_s,
        pinned=pinned_engine(headers.get("x-engine"), admitted.caller, service),
    )
    caching = service.caching()
    if caching is None:
        return answer(ask)
    return reply(ask, caching=caching, wish=Wish.of(headers.get("cache-control", "")))


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
    record = record_of(request.scope)
    service: Service = request.app.state.service
    return PlainAnswer(answered(request, data, service), record, service.drain)  # type: ignore[return-value]


@post(
    "/query/stream",
    before_request=admitting("stream", "query"),
    status_code=200,
    summary="The same as server-sent events: sources, token, done or error",
    responses={
        200: ResponseSpec(
            Event,  # type: ignore[arg-type]
            generate_examples=False,
            media_type="text/event-stream",
        ),
        **ERROR_RESPONSES,
    },
)
async def post_query_stream(request: JSONRequest, data: JSONBody[QueryRequest]) -> ASGIApp:
    service: Service = request.app.state.service
    record = record_of(request.scope)
    commit_s = service.settings.engine.commit_seconds
    events = answered(request, data, service)
    return StreamedAnswer(events, record, service.drain, commit_s=commit_s)  # type: ignore[return-value]


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
    retrieval = await retrieve(service.loader.retriever(), data.query, data.top_k, record)
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
    path="/", route_handlers=[post_query, post_query_stream, post_search], tags=["answers"]
)
