"""DELETE /cache and POST /feedback: take wrong or unwanted answers out of the cache."""

from typing import Annotated

import msgspec
from litestar import Router, delete, post
from litestar.datastructures import State
from litestar.params import JSONBody, QueryParameter

from api.admission.limits import ONE
from api.errors import CacheDown, Invalid, NotFound
from api.http.admit import admitted_of, admitting
from api.http.body import JSONRequest
from api.http.openapi import ERROR_RESPONSES
from api.http.schemas import FeedbackRequest
from api.runtime.service import Service
from api.stores.calls import StoreDown

Name = Annotated[str | None, QueryParameter(min_length=1, max_length=512)]


class Deleted(msgspec.Struct, frozen=True):
    deleted: int


class FeedbackResponse(msgspec.Struct, frozen=True):
    evicted: bool
    """The answer was in the cache and serves nobody any more."""


@delete(
    "/cache",
    status_code=200,
    before_request=admitting("admin", "admin", ONE),
    summary="Forget cached answers: one, those that cite a document, a tenant's, or all",
    responses=ERROR_RESPONSES,
)
async def delete_cache(
    state: State, entry_id: Name = None, doc_id: Name = None, tenant: Name = None
) -> Deleted:
    service: Service = state.service
    given = [name for name in (entry_id, doc_id, tenant) if name is not None]
    if len(given) > 1:
        raise Invalid("give at most one of entry_id, doc_id, tenant")
    if service.cache is None:
        return Deleted(0)
    try:
        if entry_id is not None:
            return Deleted(int(await service.cache.delete_entry(entry_id)))
        if doc_id is not None:
            return Deleted(await service.cache.delete_document(doc_id))
        if tenant is not None:
            return Deleted(await service.cache.delete_tenant(tenant))
        return Deleted(await service.cache.delete_all())
    except StoreDown as exc:
        raise CacheDown("the cache's Redis does not answer: try again") from exc


@post(
    "/feedback",
    status_code=200,
    before_request=admitting("admin", "query", ONE),
    summary="Say whether an answer was right; a wrong cached one is dropped",
    responses=ERROR_RESPONSES,
)
async def post_feedback(request: JSONRequest, data: JSONBody[FeedbackRequest]) -> FeedbackResponse:
    service: Service = request.app.state.service
    caller = admitted_of(request).caller
    tenant = caller.tenant
    cache, cached = service.cache, service.cached_answers
    served = cached.served(data.request_id) if cached else None
    if served is not None and served.tenant != tenant:
        served = None
    is_kept = False
    if cache is not None and data.rating == "down" and not (served or data.entry_id):
        is_kept = service.log is not None and await service.log.knows(tenant, data.request_id)
        if not is_kept:
            raise NotFound("request_id: no such answer of late; give its entry_id")
    if service.log is not None:
        service.log.note_feedback(
            caller,
            data.request_id,
            data.rating,
            reason=data.reason,
            correct_answer=data.correct_answer,
        )
    if cache is None or data.rating == "up" or is_kept:
        return FeedbackResponse(False)
    try:
        if served is not None and data.entry_id in (None, served.entry_id):
            if not served.entry_id:
                return FeedbackResponse(False)
            await cache.reject(served.entry_id, served.question)
            return FeedbackResponse(True)
        gone = await cache.delete_entry(data.entry_id or "", tenant=tenant)
        return FeedbackResponse(gone)
    except StoreDown as exc:
        raise CacheDown("the answer is dropped here; the cache's Redis does not answer") from exc


router = Router(path="/", route_handlers=[delete_cache, post_feedback], tags=["cache"])
