"""Before a route reads its body: who asks, may they, and how much is left to them.

A `before_request` and no Litestar guard: for guards it copies the whole handler, 40 µs each time.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from litestar import Request

from api.admission.caller import RouteClass, Scope
from api.admission.door import Admitted
from api.admission.limits import Cost
from api.admission.refusals import RateLimited
from api.errors import Forbidden
from api.http.edge import headers_of, record_of
from api.runtime.service import Service

BeforeRequest = Callable[[Request[Any, Any, Any]], Awaitable[None]]


def admitting(route_class: RouteClass, scope: Scope, cost: Cost | None = None) -> BeforeRequest:
    """Return the `before_request` of a route.

    `cost` None: one request, and the tokens of an answer as long as the settings allow.
    It raises Unauthorized, Forbidden, RateLimited or LedgerDown.
    """

    async def admit(request: Request[Any, Any, Any]) -> None:
        service: Service = request.app.state.service
        record = record_of(request.scope)
        record.endpoint = request.scope["path_template"]
        before = record.elapsed_ms()
        headers = headers_of(request.scope)
        if "origin" in headers:
            _require_own_page(request, headers, service)
        client = request.scope["client"]
        record.peer = client[0] if client else ""
        admitted = service.door.admit_at_once(headers, route_class)
        if admitted is None:
            try:
                admitted = await service.door.admit(
                    headers,
                    record.peer or None,
                    route_class,
                    cost or Cost(tokens=service.settings.pipeline.max_new_tokens),
                )
            except RateLimited as refused:
                service.metrics.rate_limited.labels(route_class).inc()
                record.headers = _headers(refused.allowance.headers())
                raise
            record.headers = _headers(admitted.headers())
        admitted.caller.require(scope)
        request.scope["state"]["admitted"] = admitted
        record.stages_ms = {"auth": record.elapsed_ms() - before}

    return admit


def _require_own_page(
    request: Request[Any, Any, Any], headers: Mapping[str, str], service: Service
) -> None:
    """Raise Forbidden for a change that a browser makes on behalf of another site's page.

    A form with files needs no preflight: any page could upload into a ragrelay without keys.
    """
    allowed = {origin.strip() for origin in service.settings.api.cors_origins.split(",")}
    if request.method == "GET" or headers["origin"] in allowed or "*" in allowed:
        return
    site = headers.get("sec-fetch-site")
    if site is None:  # an old browser
        is_own = urlsplit(headers["origin"]).netloc == headers.get("host")
        site = "same-origin" if is_own else "cross-site"
    if site not in ("same-origin", "none"):
        raise Forbidden("pages of other sites may ask only from API_CORS_ORIGINS")


def admitted_of(request: Request[Any, Any, Any]) -> Admitted:
    admitted: Admitted = request.scope["state"]["admitted"]
    return admitted


def _headers(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
