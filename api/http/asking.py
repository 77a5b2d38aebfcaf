"""Make a request's question ready to be answered: its context, its variant, and its events."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from litestar import Request

from api.admission.caller import ALL_SCOPES, Caller, view_of
from api.answering.context import AnswerContext
from api.answering.events import Event
from api.answering.reply import reply
from api.answering.request import AnswerRequest, CacheControl
from api.errors import Forbidden
from api.http.admit import admitted_of
from api.http.edge import headers_of, record_of
from api.runtime.service import Service


def make_context(
    request: Request[Any, Any, Any], question: AnswerRequest, *, pinned: str | None = None
) -> AnswerContext:
    """Return the question of a request with all that its answer takes, outside any experiment.

    `pinned` is the engine that is to answer where X-Engine names none. Raises Invalid, Forbidden,
    and what `Service.stages` raises.
    """
    service: Service = request.app.state.service
    headers, record = headers_of(request.scope), record_of(request.scope)
    stages, admitted = service.stages(), admitted_of(request)
    left_s = stages.deadline_s - record.elapsed_ms() / 1000
    return AnswerContext(
        request=question,
        record=record,
        stages=stages,
        admitted=admitted,
        deadline=asyncio.get_running_loop().time() + left_s,
        pinned=find_pinned_engine(headers.get("x-engine"), admitted.caller, service) or pinned,
        view=view_of(admitted.caller, question.filters),
        cache_control=CacheControl.of(headers.get("cache-control", "")),
    )


def make_variant_context(
    request: Request[Any, Any, Any], question: AnswerRequest, *, pinned: str | None = None
) -> AnswerContext:
    """Return the same as `make_context`, in the variant of the experiment that runs, if one does.

    A question for an engine that its caller chose takes part in none.
    """
    context = make_context(request, question, pinned=pinned)
    service: Service = request.app.state.service
    experiment = service.experiment
    if experiment is None or context.pinned:
        return context
    return experiment.apply(context, experiment.choose(context))


def find_pinned_engine(name: str | None, caller: Caller, service: Service) -> str | None:
    """Return the engine that X-Engine names. Raises Invalid, or Forbidden for lack of scopes."""
    if name is None:
        return None
    if caller.scopes < ALL_SCOPES:
        raise Forbidden("X-Engine needs a key with all scopes")
    return service.engines[name].name


def open_answer(context: AnswerContext, service: Service) -> AsyncGenerator[Event]:
    """Return the events that answer a question; nothing begins before the first is asked for."""
    keeps_text = service.log is not None and service.log.keeps_text
    return reply(context, cached=service.cached_answers, keeps_text=keeps_text)
