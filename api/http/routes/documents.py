"""POST, GET and DELETE /documents, and GET /jobs/{id}: documents in and out while serving."""

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

from litestar import HttpMethod, Request, Response, Router, delete, get, post, route
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from api.admission.caller import view_of
from api.admission.limits import ONE
from api.errors import Conflict, ErrorBody, Forbidden, Invalid, NotFound
from api.http.admit import admitted_of, admitting
from api.http.body import JSONRequest
from api.http.document_schemas import (
    DocumentDeleted,
    DocumentFacts,
    DocumentList,
    DocumentOut,
    JobOut,
    JobResponse,
)
from api.http.edge import headers_of
from api.http.openapi import ERROR_RESPONSES, EVENT_STREAM
from api.http.responses import HEARTBEAT_S
from api.http.uploads import read_body
from api.logs import logger
from api.runtime.service import Service
from api.sse import HEARTBEAT, encode_frame
from api.stores.calls import StoreDown
from retrieval.library.jobs import Job

BODIES_AT_ONCE = 2
"""Decoded at a time: each may take several times its size in memory."""
LOOK_S = 0.25
"""How often a job is looked at for its stream."""
FOLLOWED_S = 3600.0

_decoding = asyncio.Semaphore(BODIES_AT_ONCE)

RESPONSES = {
    **ERROR_RESPONSES,
    404: ResponseSpec(ErrorBody, generate_examples=False, description="Not there, or not yours"),
    409: ResponseSpec(ErrorBody, generate_examples=False, description="The id is taken"),
}
After = Annotated[str, QueryParameter(max_length=512, description="`next` of the page before")]
Page = Annotated[int, QueryParameter(ge=1, le=1000)]
Sought = Annotated[str, QueryParameter(max_length=256, description="Part of an id or a title")]


class UploadRequest(JSONRequest):
    """A body that may be large, and slow to come."""

    timeout_s = 300.0
    limit_name = "INGEST_BODY_LIMIT"


@post(
    "/documents",
    before_request=admitting("documents", "ingest", ONE),
    status_code=202,
    summary="Add or replace documents: JSON, NDJSON, or files as multipart/form-data",
    responses={202: ResponseSpec(JobResponse, generate_examples=False), **RESPONSES},
)
async def post_documents(request: UploadRequest) -> Response[JobResponse]:
    caller = admitted_of(request).caller
    service: Service = request.app.state.service
    body = await request.body()
    content_type = headers_of(request.scope).get("content-type", "")
    async with _decoding:
        handed = await asyncio.to_thread(read_body, content_type, body)
    view = view_of(caller)
    job = await service.ingest.submit(
        handed.documents, handed.files, view=view, key_id=caller.key_id
    )
    facts = {"job": job.id, "tenant": caller.tenant, "key_id": caller.key_id, "total": job.total}
    logger.info("documents handed in", extra={"facts": facts})
    return Response(_shown(service, job), status_code=202, headers={"Location": f"/jobs/{job.id}"})


@get(
    "/documents",
    before_request=admitting("documents", "query", ONE),
    summary="The documents that the caller may see, by id",
    responses=RESPONSES,
)
async def get_documents(
    request: Request[Any, Any, Any], limit: Page = 100, after: After = "", q: Sought = ""
) -> DocumentList:
    service: Service = request.app.state.service
    view = view_of(admitted_of(request).caller)
    found, built = await service.ingest.documents(view, limit=limit + 1, after=after, q=q)
    shown = [DocumentFacts.of(kept, built) for kept in found[:limit]]
    return DocumentList(shown, shown[-1].doc_id if len(found) > limit else None)


@get(
    "/documents/{doc_id:path}",
    before_request=admitting("documents", "query", ONE),
    summary="One document with its text",
    responses=RESPONSES,
)
async def get_document(request: Request[Any, Any, Any], doc_id: FromPath[str]) -> DocumentOut:
    service: Service = request.app.state.service
    view = view_of(admitted_of(request).caller)
    kept, text, built = await service.ingest.document(_id_of(request), view)
    shown: DocumentOut = DocumentOut.of(kept, built, text=text)
    return shown


@delete(
    "/documents/{doc_id:path}",
    status_code=200,
    before_request=admitting("documents", "ingest", ONE),
    summary="Delete a document: gone from search, answers and cache when this returns",
    responses=RESPONSES,
)
async def delete_document(
    request: Request[Any, Any, Any], doc_id: FromPath[str]
) -> DocumentDeleted:
    service: Service = request.app.state.service
    id, caller = _id_of(request), admitted_of(request).caller
    try:
        await service.ingest.delete(id, view_of(caller))
    except Conflict as exc:  # it may be seen, so there is nothing to keep to ourselves
        raise Forbidden(exc.message) from exc
    service.loader.hide_deleted()
    facts = {"tenant": caller.tenant, "key_id": caller.key_id}
    logger.info("document deleted", extra={"facts": facts})
    await _uncache(service, id)
    return DocumentDeleted(id)


async def _uncache(service: Service, doc_id: str) -> None:
    """Free what cites the document; without Redis its entries are refused where they are met."""
    if service.cache is None:
        return
    try:
        await service.cache.delete_document(doc_id)
    except StoreDown:
        logger.warning("cache not told of a deletion", extra={"facts": {"store": "down"}})


@get(
    "/jobs/{job_id:str}",
    before_request=admitting("documents", "query", ONE),
    summary="How far a job is; as server-sent events with Accept: text/event-stream",
    responses=RESPONSES,
)
async def get_job(request: Request[Any, Any, Any], job_id: FromPath[str]) -> Response[Any]:
    service: Service = request.app.state.service
    job = await _job(request, job_id)
    if EVENT_STREAM not in headers_of(request.scope).get("accept", ""):
        return Response(_shown(service, job))
    return Stream(
        lambda: _events(service, job),
        media_type=EVENT_STREAM,
        headers={"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"},
    )


async def _job(request: Request[Any, Any, Any], id: str) -> Job:
    """The job, for the key that made it and for its tenant's admins. Raises NotFound."""
    service: Service = request.app.state.service
    caller = admitted_of(request).caller
    job = await service.ingest.job(id)
    is_own = job is not None and job.tenant == caller.tenant
    if job is None or not is_own or not ("admin" in caller.scopes or job.key_id == caller.key_id):
        raise NotFound("no such job")
    return job


def _shown(service: Service, job: Job) -> JobResponse:
    return JobResponse(JobOut.of(service.ingest.with_progress(job)))


async def _events(service: Service, job: Job) -> AsyncGenerator[bytes]:
    """`job` events, one a change, until the job has ended or this instance stops."""
    number, sent, quiet_since = 0, None, time.monotonic()
    until = quiet_since + FOLLOWED_S
    while time.monotonic() < until:
        shown = _shown(service, job)
        if shown != sent:
            number, sent, quiet_since = number + 1, shown, time.monotonic()
            yield encode_frame(b"job", number, shown)
        elif time.monotonic() - quiet_since > HEARTBEAT_S:
            quiet_since = time.monotonic()
            yield HEARTBEAT
        if job.finished_at is not None or service.drain.started:
            return
        await asyncio.sleep(LOOK_S)
        job = await service.ingest.job(job.id) or job


def _id_of(request: Request[Any, Any, Any]) -> str:
    """The id as it was sent: the framework's path has lost its slashes at both ends."""
    raw: bytes = request.scope["raw_path"]
    try:
        id = unquote_to_bytes(raw.partition(b"/documents/")[2]).decode()
    except UnicodeDecodeError as exc:
        raise Invalid("doc_id: not UTF-8") from exc
    if not 1 <= len(id) <= 512:
        raise Invalid("doc_id: expected 1 to 512 characters")
    return id


def _allow(path: str, methods: str) -> HTTPRouteHandler:
    """OPTIONS of a path with several handlers; the framework's own tells of the first alone."""

    @route(path, http_method=HttpMethod.OPTIONS, status_code=204, include_in_schema=False)
    async def allow() -> Response[None]:
        return Response(None, status_code=204, headers={"Allow": methods})

    return allow


def router(body_limit: int) -> Router:
    """`body_limit` in bytes, of POST /documents."""
    return Router(
        path="/",
        route_handlers=[
            _allow("/documents", "GET, OPTIONS, POST"),
            _allow("/documents/{doc_id:path}", "DELETE, GET, OPTIONS"),
            post_documents,
            get_documents,
            get_document,
            delete_document,
            get_job,
        ],
        request_class=UploadRequest,
        request_max_body_size=body_limit,
        tags=["documents"],
    )
