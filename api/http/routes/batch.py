"""POST /batch: many questions in one request."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Annotated

import msgspec
from litestar import Router, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, JSONBody
from litestar.types import ASGIApp

from api.admission.limits import NO_COST
from api.answering.events import Event
from api.answering.request import AnswerRequest
from api.errors import ErrorBody
from api.http.admit import admitted_of, admitting, charge_answers
from api.http.asking import make_variant_context, open_answer
from api.http.batch import Answering, Batch, BatchAnswer, BatchRequest, BatchResponse, check
from api.http.body import JSONRequest
from api.http.edge import record_of
from api.http.idempotency import Once
from api.http.openapi import ERROR_RESPONSES
from api.runtime.service import Service
from api.telemetry.record import Record

PARALLELISM = 4
"""The embedded engine has two places: one stays free for who asks meanwhile."""

IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        description="At most 255 characters: the same batch again gets the same answer for an hour",
    ),
]


@post(
    "/batch",
    before_request=admitting("batch", "query", NO_COST),
    status_code=200,
    summary="Answer many questions; one result each, in their order",
    responses={
        200: ResponseSpec(BatchResponse, generate_examples=False),
        409: ResponseSpec(
            ErrorBody, generate_examples=False, description="The Idempotency-Key is taken"
        ),
        **ERROR_RESPONSES,
    },
)
async def post_batch(
    request: JSONRequest, data: JSONBody[BatchRequest], idempotency_key: IdempotencyKey = None
) -> ASGIApp:
    service: Service = request.app.state.service
    record = record_of(request.scope)
    service.stages()  # a replica that cannot answer says so for all of them at once
    caller = admitted_of(request).caller
    owner = (caller.tenant, caller.key_id)
    batch = Batch(
        check(data.queries),
        record,
        service.metrics,
        on_end=lambda ended: service.log_answer(ended, caller),
    )
    return BatchAnswer(  # type: ignore[return-value]
        batch,
        Once(request.app.state.idempotency, owner, idempotency_key, data.queries),
        record,
        service.drain,
        admit=lambda: _admit(request, batch, len(data.queries)),
        parallelism=service.settings.api.batch_parallelism or _parallelism(service),
    )


def _parallelism(service: Service) -> int:
    return PARALLELISM if service.settings.engine_addresses() else 1


async def _admit(request: JSONRequest, batch: Batch, n_questions: int) -> Answering:
    """Count the questions, and return how one is answered. Raises RateLimited, LedgerDown."""
    service: Service = request.app.state.service
    each = await charge_answers(request, n_questions, n_answers=batch.n_distinct)

    def answering(question: AnswerRequest, record: Record) -> AsyncGenerator[Event]:
        context = make_variant_context(request, question)
        own = msgspec.structs.replace(
            context,
            record=record,
            admitted=each,
            lane="batch",
            deadline=asyncio.get_running_loop().time() + context.stages.deadline_s,
        )
        return open_answer(own, service)

    return answering


router = Router(path="/", route_handlers=[post_batch], tags=["answers"])
