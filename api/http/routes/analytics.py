"""GET /analytics/…: reports on the query log, for admins; DELETE /analytics/log: rows out of it.

An admin sees all tenants; `tenant` narrows it down.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import msgspec
from litestar import Router, delete, get
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import PathParameter, QueryParameter
from sqlalchemy.ext.asyncio import AsyncConnection

from api.admission.limits import ONE
from api.errors import ErrorBody, Invalid, NotFound
from api.http.admit import admitting
from api.http.openapi import ERROR_RESPONSES
from api.http.schemas import NO_NUL
from api.log import analytics, experiment_report, reader
from api.log.analytics import EngineFacts, Savings, Summary, Window
from api.log.experiment_report import ExperimentReport
from api.log.query_log import QueryLog
from api.log.reader import FailingQuestion, LoggedAnswer, Wanted
from api.log.retention import Forgotten
from api.runtime.service import Service

ANALYSIS_S = 10.0

RESPONSES = {
    **ERROR_RESPONSES,
    404: ResponseSpec(
        ErrorBody,
        generate_examples=False,
        description="DATABASE_URL is off, or nothing has the name",
    ),
}

Hours = Annotated[
    float, QueryParameter(gt=0, le=87_600, description="The window: so long before now")
]
Name = Annotated[str | None, QueryParameter(min_length=1, max_length=128, pattern=NO_NUL)]
ExperimentName = Annotated[str, PathParameter(max_length=64, pattern=NO_NUL)]
Limit = Annotated[int, QueryParameter(ge=1, le=200, description="Rows of a page")]
Cursor = Annotated[
    str | None,
    QueryParameter(pattern=r"^[0-9]{1,19}$", description="`next` of the page before"),
]
Unanswered = Annotated[
    bool | None, QueryParameter(description="true: only where nothing was found; false: the rest")
]
Offset = Annotated[int, QueryParameter(ge=0, le=10_000)]

T = TypeVar("T")


class EngineReport(msgspec.Struct, frozen=True):
    since: float
    engines: list[EngineFacts]


class AnswerPage(msgspec.Struct, frozen=True):
    answers: list[LoggedAnswer]
    next: str | None
    """`after` of the next page; null on the last."""


class QuestionPage(msgspec.Struct, frozen=True):
    keeps_text: bool
    """LOG_TEXT is on; without text there are no questions to show."""
    questions: list[FailingQuestion]


def _log(state: State) -> QueryLog:
    """Raises NotFound."""
    service: Service = state.service
    if service.log is None:
        raise NotFound("there is no log: DATABASE_URL is off")
    return service.log


def _window(hours: float, tenant: str | None) -> Window:
    return Window(since=time.time() - hours * 3600, tenant=tenant)


async def _ask(state: State, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
    return await _log(state).database.run(work, within_s=ANALYSIS_S)


_admitted = admitting("analytics", "admin", ONE)


@get(
    "/analytics/summary",
    before_request=_admitted,
    summary="Answers of a window: outcomes, cache, cost, latency, feedback",
    responses=RESPONSES,
)
async def get_summary(state: State, hours: Hours = 24.0, tenant: Name = None) -> Summary:
    window = _window(hours, tenant)
    return await _ask(state, lambda connection: analytics.summary(connection, window))


@get(
    "/analytics/savings",
    before_request=_admitted,
    summary="What the cache saved, in EUR and seconds",
    responses=RESPONSES,
)
async def get_savings(state: State, hours: Hours = 24.0, tenant: Name = None) -> Savings:
    window = _window(hours, tenant)
    return await _ask(state, lambda connection: analytics.savings(connection, window))


@get(
    "/analytics/engines",
    before_request=_admitted,
    summary="Latency and cost by engine and model",
    responses=RESPONSES,
)
async def get_engines(state: State, hours: Hours = 24.0, tenant: Name = None) -> EngineReport:
    window = _window(hours, tenant)
    found = await _ask(state, lambda connection: analytics.engines(connection, window))
    return EngineReport(window.since, found)


@get(
    "/analytics/experiments/{name:str}",
    before_request=_admitted,
    summary="Answers, latency, cost and feedback of an experiment by variant, with a verdict",
    responses=RESPONSES,
)
async def get_experiment(
    state: State, name: ExperimentName, hours: Hours = 24.0, tenant: Name = None
) -> ExperimentReport:
    window = _window(hours, tenant)
    report = await _ask(
        state, lambda connection: experiment_report.report(connection, window, name)
    )
    running = state.service.experiment
    if not report.variants and (running is None or running.name != name):
        raise NotFound("no answers of an experiment of that name in the window")
    return report


@get(
    "/analytics/queries",
    before_request=_admitted,
    summary="Single answers, newest first; questions and answers where LOG_TEXT is on",
    responses=RESPONSES,
)
async def get_queries(
    state: State,
    hours: Hours = 24.0,
    tenant: Name = None,
    outcome: Name = None,
    unanswered: Unanswered = None,
    after: Cursor = None,
    limit: Limit = 50,
) -> AnswerPage:
    before_id = min(int(after), 2**63 - 1) if after else None
    wanted = Wanted(outcome=outcome, unanswered=unanswered, before_id=before_id)
    window = _window(hours, tenant)
    answers = await _ask(state, lambda connection: reader.newest(connection, window, wanted, limit))
    return AnswerPage(answers, answers[-1].id if len(answers) == limit else None)


@get(
    "/analytics/questions",
    before_request=_admitted,
    summary="Questions that failed or found nothing, most often first, where LOG_TEXT is on",
    responses=RESPONSES,
)
async def get_questions(
    state: State,
    hours: Hours = 24.0,
    tenant: Name = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> QuestionPage:
    window = _window(hours, tenant)
    found = await _ask(
        state, lambda connection: reader.failing(connection, window, limit=limit, offset=offset)
    )
    return QuestionPage(_log(state).keeps_text, found)


@delete(
    "/analytics/log",
    status_code=200,
    before_request=_admitted,
    summary="Forget what is logged of a tenant, or of a request",
    responses=RESPONSES,
)
async def delete_log(state: State, tenant: Name = None, request_id: Name = None) -> Forgotten:
    log = _log(state)
    match tenant, request_id:
        case str(), None:
            return await log.forget_tenant(tenant)
        case None, str():
            return await log.forget_request(request_id)
    raise Invalid("give exactly one of tenant, request_id")


router = Router(
    path="/",
    route_handlers=[
        get_summary, get_savings, get_engines, get_experiment, get_queries, get_questions,
        delete_log,
    ],
    tags=["analytics"],
)  # fmt: skip
