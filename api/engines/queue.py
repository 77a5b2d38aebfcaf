"""Fair queue before the engine: a bound on concurrent answers, a short wait, callers in turn.

Waiters of one subject are served in order, subjects in turn, batch questions after all others.
When the queue is full, the newest waiter of a subject with more than its share makes room, else
the newcomer is refused at once. Cache hits, searches and health never come here.
Runs on one event loop; nothing here is held across an await.
"""

import asyncio
from collections import OrderedDict, deque
from typing import Literal, Self

from api.errors import EngineOverloaded

Lane = Literal["interactive", "batch"]
LANES: tuple[Lane, ...] = ("interactive", "batch")
"""In the order in which they are served."""

MIN_RETRY_S = 1.0
MAX_RETRY_S = 60.0
RATE_SAMPLES = 16
"""Fewest permits given back that tell a rate."""


class Permit:
    """One place before the engine; giving it back twice gives back one."""

    def __init__(self, queue: "EngineQueue") -> None:
        self._queue: EngineQueue | None = queue

    def release(self) -> None:
        if self._queue is not None:
            queue, self._queue = self._queue, None
            queue._give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class _Waiter:
    """A question that waits for a permit."""

    def __init__(self, subject: str, lane: Lane, turn: "asyncio.Future[None]") -> None:
        self.subject = subject
        self.lane = lane
        self.turn = turn
        """Done when its turn has come, it was refused, or its task was cancelled."""
        self.is_in_line = True


class _Line:
    """The waiters of one lane: the first subject's first is next."""

    def __init__(self) -> None:
        self._by_subject: OrderedDict[str, deque[_Waiter]] = OrderedDict()

    def push(self, waiter: _Waiter) -> None:
        self._by_subject.setdefault(waiter.subject, deque()).append(waiter)

    def first(self) -> _Waiter | None:
        return next(iter(self._by_subject.values()))[0] if self._by_subject else None

    def remove(self, waiter: _Waiter) -> None:
        waiters = self._by_subject[waiter.subject]
        waiters.remove(waiter)
        if not waiters:
            del self._by_subject[waiter.subject]

    def rotate(self, subject: str) -> None:
        """The subject has had its turn: the others come first."""
        if subject in self._by_subject:
            self._by_subject.move_to_end(subject)

    def count(self, subject: str) -> int:
        return len(self._by_subject.get(subject, ()))

    def longest(self) -> deque[_Waiter]:
        return max(self._by_subject.values(), key=len, default=deque())


class EngineQueue:
    """`max_concurrent` permits at a time, `max_waiting` waiters for at most `wait_s` each."""

    def __init__(self, *, max_concurrent: int, max_waiting: int, wait_s: float) -> None:
        self.in_use = 0
        self.waiting = 0
        self._max_concurrent = max_concurrent
        self._max_waiting = max_waiting
        self._wait_s = wait_s
        self._lines = {lane: _Line() for lane in LANES}
        # When permits passed on to a waiter, without a break: what the engine can do.
        samples = max(RATE_SAMPLES, 2 * max_concurrent) + 1
        self._given_back: deque[float] = deque(maxlen=samples)
        self._rate: float | None = None

    async def enter(self, subject: str, lane: Lane = "interactive") -> Permit:
        """Wait for a permit; the caller gives it back. Raises EngineOverloaded."""
        if self.in_use < self._max_concurrent:  # then nobody waits
            self.in_use += 1
            return Permit(self)
        if self.waiting >= self.room():
            self._make_room(subject, lane)
        return await self._wait(subject, lane)

    def room(self) -> int:
        """Return how many may wait: no more than are served before their wait is over."""
        if self._rate is None:
            return self._max_waiting
        return min(self._max_waiting, max(1, int(self._rate * self._wait_s)))

    def retry_after_s(self) -> float:
        """Return how long the queue takes to drain."""
        expected = self._wait_s if self._rate is None else (self.waiting + 1) / self._rate
        return min(MAX_RETRY_S, max(MIN_RETRY_S, expected))

    async def _wait(self, subject: str, lane: Lane) -> Permit:
        loop = asyncio.get_running_loop()
        waiter = _Waiter(subject, lane, loop.create_future())
        self._lines[lane].push(waiter)
        self.waiting += 1
        timer = loop.call_later(self._wait_s, self._refuse, waiter)
        try:
            await waiter.turn
        except asyncio.CancelledError:
            came = waiter.turn.done() and not waiter.turn.cancelled()
            if came and waiter.turn.exception() is None:  # and the cancellation after it
                self._give_back()
            raise
        finally:
            timer.cancel()
            self._leave(waiter)
        return Permit(self)

    def _give_back(self) -> None:
        for lane in LANES:
            while (waiter := self._lines[lane].first()) is not None:
                self._leave(waiter)
                if not waiter.turn.done():
                    waiter.turn.set_result(None)  # the permit passes on: in_use stays
                    self._lines[lane].rotate(waiter.subject)
                    self._measure(asyncio.get_running_loop().time())
                    return
        self.in_use -= 1
        self._given_back.clear()

    def _measure(self, now: float) -> None:
        times = self._given_back
        times.append(now)
        if len(times) > RATE_SAMPLES and times[-1] > times[0]:
            self._rate = (len(times) - 1) / (times[-1] - times[0])

    def _make_room(self, subject: str, lane: Lane) -> None:
        """Refuse a waiter in the newcomer's place.

        Raises EngineOverloaded where none should yield.
        """
        batch = self._lines["batch"].longest()
        if lane == "interactive" and batch:
            self._refuse(batch[-1])
            return
        longest = self._lines[lane].longest()
        if len(longest) < self._lines[lane].count(subject) + 2:
            raise self._overloaded()
        self._refuse(longest[-1])

    def _refuse(self, waiter: _Waiter) -> None:
        self._leave(waiter)
        if not waiter.turn.done():
            waiter.turn.set_exception(self._overloaded())

    def _leave(self, waiter: _Waiter) -> None:
        if waiter.is_in_line:
            waiter.is_in_line = False
            self.waiting -= 1
            self._lines[waiter.lane].remove(waiter)

    def _overloaded(self) -> EngineOverloaded:
        return EngineOverloaded("the engine is overloaded", retry_after_s=self.retry_after_s())
