"""Answer many questions in one request; equal ones share one answer.

Below the questions of people in the queue before the engine. A client that leaves stops them all;
a retry under the same Idempotency-Key gets what was answered, without asking anew.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from api.answering.events import CacheFacts, Event
from api.answering.request import AnswerRequest
from api.errors import ErrorBody, ErrorDetail, Invalid, ShuttingDown, answer_for
from api.http.body import describe
from api.http.idempotency import Once
from api.http.interrupt import ClientGone, Receive, run_until, wait_for_disconnect
from api.http.responses import (
    NO_HEADERS,
    Scope,
    Send,
    collect,
    note_failure,
    send_error,
    send_json,
)
from api.http.schemas import QueryRequest, QueryResponse, Request
from api.http.wire import OwnWire
from api.runtime.drain import Drain
from api.telemetry.metrics import Metrics
from api.telemetry.record import Record
from api.usage import NOTHING_USED, Usage

MAX_QUERIES = 32
MAX_ID = 64
"""Characters, of the ids of a request's questions too."""


class BatchRequest(Request, frozen=True, kw_only=True):
    queries: Annotated[
        list[Any],
        Meta(
            min_length=1,
            max_length=MAX_QUERIES,
            description="Questions as strings, or bodies of POST /query; each is judged on its own",
            examples=[["Which engines are there?", {"query": "What is a generation?", "top_k": 1}]],
        ),
    ]


class BatchResult(msgspec.Struct, frozen=True, kw_only=True):
    status: int
    """What POST /query would have answered with."""
    response: QueryResponse | None = None
    error: ErrorDetail | None = None


class BatchResponse(msgspec.Struct, frozen=True, kw_only=True):
    results: list[BatchResult]
    """In the order of the questions."""
    usage: Usage
    """Of all together, as is the cost; equal questions are counted once."""
    cost_eur: float
    latency_ms: dict[str, float]
    request_id: str


Checked = QueryRequest | Invalid


def check(queries: Sequence[object]) -> list[Checked]:
    """Return each question, or what is wrong with it."""
    return [_check(query) for query in queries]


def _check(query: object) -> Checked:
    body = {"query": query} if isinstance(query, str) else query
    try:
        return msgspec.convert(body, QueryRequest)
    except msgspec.ValidationError as exc:
        return Invalid(describe(str(exc)))


class Item:
    """One question of a batch, with those that are equal to it."""

    def __init__(self, question: AnswerRequest, record: Record) -> None:
        self.question = question
        self.record = record
        self.outcome: QueryResponse | BaseException | None = None


Answering = Callable[[AnswerRequest, Record], AsyncGenerator[Event]]
OnEnd = Callable[[Record], None]


class AnswerGroup(ABC):
    """Answers of one request that are made side by side."""

    def __init__(self, record: Record, metrics: Metrics, on_end: OnEnd) -> None:
        """`on_end` is called with the record of each answer that ends, however it does."""
        self._record = record
        self._metrics = metrics
        self._on_end = on_end
        self._items: dict[bytes, Item] = {}

    @property
    def n_distinct(self) -> int:
        return len(self._items)

    async def run(self, answering: Answering, parallelism: int) -> None:
        """Answer all questions, so many at a time; what goes wrong with one stays its own."""
        waiting = iter(self._items.values())

        async def work() -> None:
            for item in waiting:
                item.outcome = await self._answer(item, answering)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(parallelism, len(self._items))):
                group.create_task(work())

    async def _answer(self, item: Item, answering: Answering) -> QueryResponse | BaseException:
        item.record.started = time.monotonic()
        try:
            return await collect(answering(item.question, item.record))
        except Exception as error:  # it becomes the question's result
            note_failure(item.record, error)
            return error
        except asyncio.CancelledError:
            item.record.outcome = item.record.outcome or "client_gone"
            raise
        finally:
            self._observe(item.record)

    def _observe(self, record: Record) -> None:
        """Count an answer; the request itself is counted by the edge."""
        if record.answers:
            latency = self._metrics.latency.labels(record.endpoint, record.cache, record.engine)
            latency.observe(record.elapsed_ms() / 1000)
            self._metrics.observe_stages(record.stages_ms)
            self._metrics.count_variant(record)
            self._on_end(record)
        if record.error:
            self._metrics.errors.labels(record.error).inc()
            self._record.outcome = self._record.outcome or record.outcome

    def give_up(self, error: BaseException) -> None:
        """Let `error` be the outcome of all that have none."""
        for item in self._items.values():
            item.outcome = item.outcome or error

    @abstractmethod
    def response(self) -> msgspec.Struct:
        """Return the results, once all questions have one."""


class Batch(AnswerGroup):
    """The questions of one request, in their order."""

    def __init__(
        self, checked: Sequence[Checked], record: Record, metrics: Metrics, on_end: OnEnd
    ) -> None:
        super().__init__(record, metrics, on_end)
        self._slots: list[Item | Invalid] = []
        for n, question in enumerate(checked):
            if isinstance(question, Invalid):
                self._slots.append(question)
                continue
            key = msgspec.json.encode(question)
            if key not in self._items:
                self._items[key] = Item(question, record_of_item(record, str(n)))
            self._slots.append(self._items[key])

    def response(self) -> BatchResponse:
        """Return the results, once all questions have one."""
        results = self._results()
        answers = [result.response for result in results if result.response]
        return BatchResponse(
            results=results,
            usage=sum((answer.usage for answer in answers), NOTHING_USED),
            cost_eur=sum(answer.cost_eur for answer in answers),
            latency_ms={"total": round(self._record.elapsed_ms(), 2)},
            request_id=self._record.request_id,
        )

    def _results(self) -> list[BatchResult]:
        answered: set[str] = set()
        results = []
        for slot in self._slots:
            if isinstance(slot, Invalid):
                results.append(_failure(slot, self._record.request_id))
                continue
            results.append(result_of(slot, is_shared=slot.record.request_id in answered))
            answered.add(slot.record.request_id)
        return results


def record_of_item(record: Record, name: str) -> Record:
    """Return the record of one of a request's answers, under an id of its own."""
    request_id = f"{record.request_id[: MAX_ID - 1 - max(2, len(name))]}-{name}"
    return Record(request_id=request_id, started=time.monotonic(), endpoint=record.endpoint)


def result_of(item: Item, *, is_shared: bool = False) -> BatchResult:
    if isinstance(item.outcome, QueryResponse):
        response = _shared(item.outcome) if is_shared else item.outcome
        return BatchResult(status=200, response=response)
    if item.outcome is None:
        raise RuntimeError("a question of a batch without an outcome. This is a bug.")
    return _failure(item.outcome, item.record.request_id)


def _failure(error: BaseException, request_id: str) -> BatchResult:
    detail = ErrorBody.of(error, request_id).error
    return BatchResult(status=answer_for(error).status, error=detail)


def _shared(response: QueryResponse) -> QueryResponse:
    """Return the answer as its second asker gets it: it has cost nothing more."""
    cache = CacheFacts(kind="coalesced", similarity=1.0, entry_id=response.cache.entry_id)
    return msgspec.structs.replace(response, usage=NOTHING_USED, cost_eur=0.0, cache=cache)


class BatchAnswer:
    """ASGI response: all results as one JSON body.

    `admit` counts the questions at the door and returns how one is answered.
    """

    def __init__(
        self,
        batch: AnswerGroup,
        once: Once,
        record: Record,
        drain: Drain,
        *,
        admit: Callable[[], Awaitable[Answering]],
        parallelism: int,
    ) -> None:
        self._batch = batch
        self._once = once
        self._record = record
        self._drain = drain
        self._admit = admit
        self._parallelism = parallelism

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._drain.answering():
            try:
                with self._once as answered:
                    if answered is None:
                        await run_until(
                            self._work(), partial(wait_for_disconnect, receive), self._drain.over
                        )
                        body = msgspec.json.encode(self._batch.response())
                        self._once.keep(body)
                        await self._send(send, body)
                    else:
                        await self._send(send, answered, {"Idempotency-Replayed": "true"})
            except ClientGone:
                self._record.outcome = "client_gone"
            except ShuttingDown as error:
                self._batch.give_up(error)
                note_failure(self._record, error)
                await self._send(send, msgspec.json.encode(self._batch.response()))
            except Exception as error:
                await send_error(send, self._record, error, OwnWire(self._record.request_id))

    async def _work(self) -> None:
        answering = await self._admit()
        await self._batch.run(answering, self._parallelism)

    async def _send(self, send: Send, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> None:
        await send_json(send, self._record, 200, msgspec.Raw(body), headers)
