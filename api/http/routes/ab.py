"""POST /query/ab: one question, answered by every variant of the running experiment."""

import asyncio
from collections.abc import AsyncGenerator

import msgspec
from litestar import Router, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody
from litestar.types import ASGIApp

from api.admission.limits import NO_COST
from api.answering.events import Event
from api.answering.experiments import Experiment
from api.answering.request import AnswerRequest
from api.errors import ErrorBody, Invalid, NotFound
from api.http.admit import admitted_of, admitting, charge_answers
from api.http.asking import make_context, open_answer
from api.http.batch import (
    AnswerGroup,
    Answering,
    BatchAnswer,
    BatchResult,
    Item,
    OnEnd,
    record_of_item,
    result_of,
)
from api.http.body import JSONRequest
from api.http.edge import headers_of, record_of
from api.http.idempotency import Once
from api.http.openapi import ERROR_RESPONSES
from api.http.schemas import QueryRequest
from api.runtime.service import Service
from api.telemetry.metrics import Metrics
from api.telemetry.record import Record


class VariantResult(BatchResult, frozen=True, kw_only=True):
    variant: str


class SideBySide(msgspec.Struct, frozen=True, kw_only=True):
    experiment: str
    variants: list[VariantResult]
    """In the order of the experiment's file."""
    request_id: str


class Comparison(AnswerGroup):
    """One question for all variants; their records are told apart by the variant."""

    def __init__(
        self,
        question: AnswerRequest,
        experiment: Experiment,
        record: Record,
        metrics: Metrics,
        on_end: OnEnd,
    ) -> None:
        super().__init__(record, metrics, on_end)
        self._experiment = experiment
        for variant in experiment.variants:
            own = record_of_item(record, variant.name)
            own.experiment, own.variant = experiment.name, variant.name
            self._items[variant.name.encode()] = Item(question, own)

    def response(self) -> SideBySide:
        results = [
            VariantResult(variant=item.record.variant, **msgspec.structs.asdict(result_of(item)))
            for item in self._items.values()
        ]
        return SideBySide(
            experiment=self._experiment.name,
            variants=results,
            request_id=self._record.request_id,
        )


@post(
    "/query/ab",
    before_request=admitting("ab", "query", NO_COST),
    status_code=200,
    summary="Answer a question by every variant of the running experiment, side by side",
    responses={
        200: ResponseSpec(SideBySide, generate_examples=False),
        404: ResponseSpec(ErrorBody, generate_examples=False, description="No experiment runs"),
        **ERROR_RESPONSES,
    },
)
async def post_query_ab(request: JSONRequest, data: JSONBody[QueryRequest]) -> ASGIApp:
    service: Service = request.app.state.service
    record, caller = record_of(request.scope), admitted_of(request).caller
    experiment = service.experiment
    if experiment is None:
        raise NotFound("no experiment runs: EXPERIMENTS_FILE is empty")
    if "x-engine" in headers_of(request.scope):
        raise Invalid("X-Engine: here the variants name the engines")
    service.stages()  # a replica that cannot answer says so for all of them at once
    comparison = Comparison(
        data,
        experiment,
        record,
        service.metrics,
        on_end=lambda ended: service.log_answer(ended, caller),
    )
    return BatchAnswer(  # type: ignore[return-value]
        comparison,
        Once(request.app.state.idempotency, (caller.tenant, caller.key_id), None, data),
        record,
        service.drain,
        admit=lambda: _admit(request, experiment, comparison),
        parallelism=comparison.n_distinct,
    )


async def _admit(request: JSONRequest, experiment: Experiment, comparison: Comparison) -> Answering:
    """Count one request, and return how a variant answers. Raises RateLimited, LedgerDown."""
    service: Service = request.app.state.service
    each = await charge_answers(request, 1, n_answers=comparison.n_distinct)
    variants = {variant.name: variant for variant in experiment.variants}

    def answering(question: AnswerRequest, record: Record) -> AsyncGenerator[Event]:
        context = make_context(request, question)
        own = msgspec.structs.replace(
            experiment.apply(context, variants[record.variant]),
            record=record,
            admitted=each,
            deadline=asyncio.get_running_loop().time() + context.stages.deadline_s,
        )
        return open_answer(own, service)

    return answering


router = Router(path="/", route_handlers=[post_query_ab], tags=["answers"])
