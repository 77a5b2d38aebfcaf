"""The Litestar app: its routes, error handler and lifespan. Importing this opens nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException

from api.errors import (
    ErrorBody,
    Invalid,
    Malformed,
    MethodNotAllowed,
    NotFound,
    RagError,
    TooLarge,
    answer_for,
    retry_after,
)
from api.http.body import JSONRequest
from api.http.cross_origin import cors_config
from api.http.edge import Edge, record_of
from api.http.idempotency import Idempotency
from api.http.kept_streams import KeptStreams
from api.http.openapi import openapi_config
from api.http.responses import note_failure
from api.http.routes import (
    ab,
    account,
    analytics,
    batch,
    cache,
    docs,
    documents,
    generations,
    health,
    openai,
    page,
    query,
)
from api.runtime.service import Service
from api.settings.env import Settings

# What the framework itself raises, before a handler of ours runs.
_FRAMEWORK_ERRORS: dict[int, tuple[type[RagError], str]] = {
    400: (Malformed, "the request is malformed"),
    404: (NotFound, "no such route"),
    405: (MethodNotAllowed, "this route does not have this method"),
    413: (TooLarge, "the body is larger than API_BODY_LIMIT, or INGEST_BODY_LIMIT for documents"),
    422: (Invalid, "the request is invalid"),
}


def create_app(settings: Settings | None = None) -> Edge:
    """Return the ASGI app; without settings they are read from the environment.

    `app.service` is what the app holds open; two apps in one process share nothing.
    """
    settings = settings or Settings.from_env()
    service = Service(settings)
    kept_streams = KeptStreams(service.drain, keep_s=settings.api.resume_seconds)
    idempotency = Idempotency()
    service.loader.on_hide.append(idempotency.forget)
    held = {"service": service, "kept_streams": kept_streams, "idempotency": idempotency}

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with service.run():
            try:
                yield
            finally:
                await kept_streams.close()

    litestar = Litestar(
        route_handlers=[
            *(routes.router for routes in (query, ab, batch, openai, cache, account, health, docs)),
            documents.router(settings.ingest.body_limit),
            generations.router,
            analytics.router,
            page.router(),
        ],
        lifespan=[lifespan],
        state=State(held),
        request_class=JSONRequest,
        request_max_body_size=settings.api.body_limit,
        exception_handlers={Exception: _answer_error},
        cors_config=cors_config(settings.api.cors_origins),
        openapi_config=openapi_config(settings.auth.enabled),
        logging_config=None,
        debug=False,
    )
    return Edge(litestar, service)


def _answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
    record = record_of(request.scope)
    if isinstance(error, HTTPException) and error.status_code in _FRAMEWORK_ERRORS:
        cls, message = _FRAMEWORK_ERRORS[error.status_code]
        error = cls(message)
    note_failure(record, error)
    body = ErrorBody.of(error, record.request_id)
    return Response(body, status_code=answer_for(error).status, headers=retry_after(error))
