"""`create_app`: routes, error handler and lifespan, put together. Importing opens nothing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from litestar import Litestar, MediaType, Request, Response
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

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
from api.http.edge import Edge, record_of
from api.http.idempotency import Idempotency
from api.http.kept_streams import KeptStreams
from api.http.responses import failed
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
        cors_config=_cors(settings.api.cors_origins),
        openapi_config=_openapi(settings.auth.enabled),
        logging_config=None,
        debug=False,
    )
    return Edge(litestar, service)


def _answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorBody]:
    record = record_of(request.scope)
    if isinstance(error, HTTPException) and error.status_code in _FRAMEWORK_ERRORS:
        cls, message = _FRAMEWORK_ERRORS[error.status_code]
        error = cls(message)
    failed(record, error)
    body = ErrorBody.of(error, record.request_id)
    return Response(body, status_code=answer_for(error).status, headers=retry_after(error))


def _cors(origins: str) -> CORSConfig | None:
    allowed = [origin.strip() for origin in origins.split(",") if origin.strip()]
    if not allowed:
        return None
    return CORSConfig(
        allow_origins=allowed,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=[
            "Content-Type",
            "X-API-Key",
            "X-Request-ID",
            "Authorization",
            "Idempotency-Key",
            "Last-Event-ID",
        ],
        expose_headers=["X-Request-ID", "Retry-After", "X-Resume-ID"],
    )


def _openapi(auth_enabled: bool) -> OpenAPIConfig:
    key = SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header")
    return OpenAPIConfig(
        title="ragrelay",
        version=version("ragrelay"),
        description="Answers from your documents, through the engine of your choice.",
        components=Components(security_schemes={"key": key}),
        security=[{"key": []}] if auth_enabled else None,
        path="/schema",
        render_plugins=[JsonRenderPlugin(path="/", media_type=MediaType.JSON)],
    )
