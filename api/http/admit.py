"""Admit a request before its body is read: who asks, may they, and how much is left to them.

A `before_request` and no Litestar guard: for guards it copies the whole handler, 40 µs each time.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from litestar import Request

from api.admission.caller import RouteClass, Scope
from api.admission.door import Admitted
from api.admission.limits import Cost
from api.admission.refusals import RateLimited
from api.http.cross_origin import refuse_other_sites
from api.http.edge import headers_of, record_of
from api.runtime.service import Service
from api.telemetry.record import Record

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
            method = request.scope["method"]
            refuse_other_sites(method, headers, service.settings.api.cors_origins)
        client = request.scope["client"]
        record.peer = client[0] if client else ""
        admitted = service.door.admit_at_once(headers, route_class)
        if admitted is None:
            counting = service.door.admit(
                headers,
                record.peer or None,
                route_class,
                cost or Cost(tokens=service.settings.pipeline.max_new_tokens),
            )
            admitted = await _counted(counting, service, record, route_class)
        admitted.caller.require(scope)
        request.scope["state"]["admitted"] = admitted
        record.stages_ms = {"auth": record.elapsed_ms() - before}

    return admit


def admitted_of(request: Request[Any, Any, Any]) -> Admitted:
    admitted: Admitted = request.scope["state"]["admitted"]
    return admitted


async def charge_answers(
    request: Request[Any, Any, Any], n_requests: int, *, n_answers: int
) -> Admitted:
    """Count so many requests, and return how each of their answers is admitted.

    Raises RateLimited, LedgerDown.
    """
    service: Service = request.app.state.service
    record, admitted = record_of(request.scope), admitted_of(request)
    tokens = service.settings.pipeline.max_new_tokens
    counting = service.door.charge(admitted, Cost(requests=n_requests, tokens=tokens * n_answers))
    charged = await _counted(counting, service, record, admitted.route_class)
    return msgspec.structs.replace(charged, cost=Cost(tokens=tokens))


async def _counted(
    counting: Awaitable[Admitted], service: Service, record: Record, route_class: RouteClass
) -> Admitted:
    """Wait for the door to count, and put what is left of the limits into the response's headers.

    Raises what the door raises.
    """
    try:
        admitted = await counting
    except RateLimited as refused:
        service.metrics.rate_limited.labels(route_class).inc()
        record.headers = _encoded(refused.allowance.headers())
        raise
    record.headers = _encoded(admitted.headers())
    return admitted


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
