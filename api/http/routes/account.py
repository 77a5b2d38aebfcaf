"""GET /budget and /rate-limit/status: what is left of the caller's budgets and limits."""

from typing import Any

import msgspec
from litestar import Request, Router, get

from api.admission.caller import RouteClass
from api.admission.limits import NO_COST
from api.answering.spending import Budget
from api.http.admit import admitted_of, admitting
from api.http.openapi import ERROR_RESPONSES
from api.runtime.service import Service


class LimitStatus(msgspec.Struct, frozen=True, kw_only=True):
    route_class: RouteClass
    unit: str
    """requests or tokens, a minute."""
    limit: int
    remaining: int
    reset_s: float
    """Until the whole limit is there again."""


class LimitsStatus(msgspec.Struct, frozen=True, kw_only=True):
    enabled: bool
    counted: str
    """shared: by all replicas; local: the ledger is down, each process counts for itself; off."""
    limits: list[LimitStatus]


@get(
    "/budget",
    before_request=admitting("admin", "query", NO_COST),
    summary="What is spent, held and left; whether the circuit is open",
    responses=ERROR_RESPONSES,
)
async def get_budget(request: Request[Any, Any, Any]) -> Budget:
    service: Service = request.app.state.service
    return await service.spending.budget(admitted_of(request).caller)


@get(
    "/rate-limit/status",
    before_request=admitting("admin", "query", NO_COST),
    summary="What is left of the caller's limits, by class of routes; asking takes nothing",
    responses=ERROR_RESPONSES,
)
async def get_rate_limits(request: Request[Any, Any, Any]) -> LimitsStatus:
    service: Service = request.app.state.service
    rows = await service.door.status(admitted_of(request))
    state = service.door.state().limits
    return LimitsStatus(
        enabled=state != "off",
        counted=state,
        limits=[
            LimitStatus(
                route_class=row.route_class,
                unit=row.allowance.unit,
                limit=row.allowance.limit,
                remaining=row.allowance.remaining,
                reset_s=round(row.allowance.reset_s, 1),
            )
            for row in rows
        ],
    )


router = Router(path="/", route_handlers=[get_budget, get_rate_limits], tags=["account"])
