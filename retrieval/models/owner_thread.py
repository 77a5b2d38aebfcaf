"""Run a model on one thread of its own, in batches of what came while it was busy.

A model and its tokenizer are not safe to call from two threads, and two forward passes side by
side only compete for the same cores. An idle thread takes a single piece of work at once: nothing
waits for a batch to fill.
"""

import asyncio
import atexit
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Generic, TypeVar

from retrieval.types import QueueFull

Work = TypeVar("Work")
Answer = TypeVar("Answer")
T = TypeVar("T")

MAX_BATCH = 32
MAX_WAITING = 1024


class OwnerThread(Generic[Work, Answer]):
    """`run_batch` answers each piece of work, in order; it is called on the thread alone."""

    def __init__(
        self,
        run_batch: Callable[[list[Work]], Sequence[Answer]],
        *,
        name: str,
        max_batch: int = MAX_BATCH,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._run_batch = run_batch
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._queries: deque[tuple[Future[Answer], Work]] = deque()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._arrived = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()
        # An interpreter that ends while a daemon thread is inside torch aborts.
        atexit.register(self.close)

    async def submit(self, work: Work) -> Answer:
        """The answer for one piece of work, computed in a batch with others that wait.

        Raises QueueFull at once when too many wait, else what `run_batch` raised for its batch.
        """
        (future,) = self._enqueue([work])
        return await asyncio.wrap_future(future)

    async def submit_all(self, work: Sequence[Work]) -> list[Answer]:
        """The answers in order; batches are cut from the work in its order.

        Raises as `submit` does; what then still waits is dropped.
        """
        futures = self._enqueue(work)
        try:
            return await asyncio.gather(*map(asyncio.wrap_future, futures))
        finally:
            for future in futures:
                future.cancel()

    def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the owner thread and wait for it; submitted work goes first."""
        future: Future[T] = Future()
        with self._arrived:
            self._refuse_when_closed()
            self._calls.append((future, function))
            self._arrived.notify()
        return future.result()

    def close(self) -> None:
        """Finish what runs, cancel what waits."""
        with self._arrived:
            self._closed = True
            self._arrived.notify()
        self._thread.join()
        atexit.unregister(self.close)

    def _enqueue(self, work: Sequence[Work]) -> list[Future[Answer]]:
        futures: list[Future[Answer]] = [Future() for _ in work]
        with self._arrived:
            self._refuse_when_closed()
            if len(self._queries) + len(work) > self._max_waiting:
                raise QueueFull(f"{len(self._queries)} queries already wait for the model")
            self._queries.extend(zip(futures, work, strict=True))
            self._arrived.notify()
        return futures

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise RuntimeError(f"{self._thread.name} is closed")

    def _serve(self) -> None:
        while (turn := self._next_turn()) is not None:
            turn()
            del turn  # a caller's values must not live on while the thread waits
        for future, _ in (*self._queries, *self._calls):
            future.cancel()

    def _next_turn(self) -> Callable[[], None] | None:
        with self._arrived:
            while not (self._queries or self._calls or self._closed):
                self._arrived.wait()
            if self._closed:
                return None
            # A long job is a row of calls, a batch each: queries go in between, not behind it.
            if self._calls and not self._queries:
                return partial(_settle, *self._calls.popleft())
            batch = self._take_batch()
            return partial(self._answer, batch)

    def _take_batch(self) -> list[tuple[Future[Answer], Work]]:
        """Callers that left are dropped here, before the model works for them."""
        batch: list[tuple[Future[Answer], Work]] = []
        while self._queries and len(batch) < self._max_batch:
            future, work = self._queries.popleft()
            if future.set_running_or_notify_cancel():
                batch.append((future, work))
        return batch

    def _answer(self, batch: list[tuple[Future[Answer], Work]]) -> None:
        if not batch:
            return
        try:
            answers = self._run_batch([work for _, work in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(answers)} answers to {len(batch)} items. This is a bug.")
        except BaseException as exc:  # handed to the callers; the thread must live
            for future, _ in batch:
                future.set_exception(exc)
        else:
            for (future, _), answer in zip(batch, answers, strict=True):
                future.set_result(answer)


def _settle(future: Future[T], function: Callable[[], T]) -> None:
    try:
        future.set_result(function())
    except BaseException as exc:  # raised again where `call` waits
        future.set_exception(exc)
