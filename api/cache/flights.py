"""Request coalescing: equal questions asked at the same time share one engine call.

So do paraphrases. A flight is one running answer: a task of its own runs the generator of the
first to ask, the leader, and keeps every event, so a follower replays what was sent and then goes
on live, at its own pace and with its own deadline. The task belongs to no client: the leader may
leave like anybody, the engine goes on while anyone listens and is closed soon after the last has
left.

A flight that fails before its first event is begun once more, by the first follower to hear of
it: the reason may be the leader's own (its deadline, its budget). All others wait for that one
attempt, and if it fails too, all get its error: one retry for N questions, so an engine in
trouble does not get N. After the first event everyone gets the leader's error.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Generic, Literal, Self, TypeVar

from api.broadcast import Broadcast
from api.cache.entries import CacheKey
from api.cache.features import read_question
from api.cache.semantic import SemanticIndex
from api.cache.vetoes import veto
from api.errors import DeadlineExceeded, ShuttingDown

E = TypeVar("E")
Start = Callable[[], AsyncGenerator[E]]

LINGER_S = 0.25
"""How long a flight nobody listens to goes on: its last event may already be on its way."""
CLOSE_S = 5.0
MAX_ATTEMPTS = 2


class Flight(Generic[E]):
    """One engine call that answers a question, and those who listen to it."""

    def __init__(self, asked: CacheKey, attempt: int) -> None:
        self.asked = asked
        self.attempt = attempt
        self.events: Broadcast[E] = Broadcast()
        self.n_listening = 0
        self.task: asyncio.Task[None] | None = None


class Seat(Generic[E]):
    """One client's place in a flight; `async with` it, then iterate over the events."""

    def __init__(
        self, flights: "Flights[E]", flight: Flight[E], start: Start[E], deadline: float | None
    ) -> None:
        self.similarity = 1.0
        self._flights = flights
        self._flight = flight
        self._start = start
        self._deadline = deadline
        self._led = False
        self._has_left = False
        self._is_late = False
        flight.n_listening += 1

    @property
    def kind(self) -> Literal["none", "coalesced"]:
        """As the response tells it: "none" for the one whose engine call it is."""
        return "none" if self._led else "coalesced"

    @property
    def leads(self) -> bool:
        return self._led

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()

    def leave(self) -> None:
        if not self._has_left:
            self._has_left = True
            self._flights.left(self._flight)

    async def __aiter__(self) -> AsyncIterator[E]:
        """The events from the first on. Raises what the answer raised, or DeadlineExceeded."""
        sent, timer = 0, None
        if self._deadline is not None:
            timer = asyncio.get_running_loop().call_at(self._deadline, self._end_wait)
        try:
            while True:
                kept = self._flight.events
                if self._is_late and len(kept) == sent and not kept.has_ended:
                    raise DeadlineExceeded("the answer took longer than its deadline")
                events = await kept.after(sent)
                for event in events:
                    yield event
                sent += len(events)
                if not events and kept.has_ended and not self._goes_on(sent):
                    return
        finally:
            if timer is not None:
                timer.cancel()

    def _goes_on(self, sent: int) -> bool:
        """Whether a second attempt is under way. Raises what ended the flight, if anything did."""
        flight = self._flight
        error = flight.events.error
        if error is None:
            return False
        if sent or self._led or self._flights.is_closed or flight.attempt >= MAX_ATTEMPTS:
            raise error
        self._move_on()
        return True

    def _end_wait(self) -> None:
        self._is_late = True
        self._flight.events.wake()

    def lead(self, flight: Flight[E]) -> None:
        self._led = True
        self._flights.launch(flight, self._start)

    def _move_on(self) -> None:
        """Take part in the second attempt; begin it when no one has."""
        failed = self._flight
        again = self._flights.attempt_after(failed)
        self._flight = again
        again.n_listening += 1
        self._flights.left(failed)
        if again.task is None:
            self.lead(again)


class Flights(Generic[E]):
    """The answers that run in this process, found by question."""

    def __init__(
        self,
        *,
        threshold: float | None,
        may_share: Callable[[str, str], bool] = lambda id, question: True,
        linger_s: float = LINGER_S,
    ) -> None:
        """`may_share(entry id, question)` is False where feedback keeps the two apart."""
        self.coalesced = 0
        self.is_closed = False
        self._threshold = threshold
        self._may_share = may_share
        self._linger_s = linger_s
        self._by_id: dict[str, Flight[E]] = {}
        self._indexes: dict[str, SemanticIndex] = {}
        self._retries: dict[Flight[E], Flight[E]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._by_id)

    def follow(self, asked: CacheKey, start: Start[E], *, deadline: float | None) -> Seat[E] | None:
        """A seat in the flight of an equal question or a paraphrase, if there is one."""
        found = self._find(asked)
        if found is None:
            return None
        flight, similarity = found
        self.coalesced += 1
        seat = Seat(self, flight, start, deadline)
        seat.similarity = similarity
        return seat

    def join(self, asked: CacheKey, start: Start[E], *, deadline: float | None = None) -> Seat[E]:
        """A seat in a running flight or in a new one; registered before this returns.

        `start` makes the generator of the answer; it runs in a task of its own and not in the
        caller's, and only if this seat comes to lead.
        """
        seat = self.follow(asked, start, deadline=deadline)
        if seat is None:
            flight = self._register(Flight(asked, 1))
            seat = Seat(self, flight, start, deadline)
            seat.lead(flight)
        return seat

    def part(self) -> None:
        """Let nobody join what runs now: it may be written from what has been deleted since."""
        for flight in list(self._by_id.values()):
            self._unregister(flight)

    async def close(self, deadline_s: float = CLOSE_S) -> None:
        """End all flights; who still listens gets ShuttingDown."""
        self.is_closed = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=deadline_s)

    def launch(self, flight: Flight[E], start: Start[E]) -> None:
        task = asyncio.create_task(self._fly(flight, start), name="flight")
        flight.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def left(self, flight: Flight[E]) -> None:
        flight.n_listening -= 1
        if flight.n_listening == 0 and not flight.events.has_ended:
            loop = asyncio.get_running_loop()
            loop.call_later(self._linger_s, self._abandon, flight)
        if flight.n_listening == 0:
            self._retries.pop(flight, None)

    def attempt_after(self, failed: Flight[E]) -> Flight[E]:
        """The one second attempt of a failed flight."""
        again = self._retries.get(failed)
        if again is None:
            running = self._by_id.get(failed.asked.id)  # someone asked anew meanwhile
            again = running or self._register(Flight(failed.asked, failed.attempt + 1))
            self._retries[failed] = again
        return again

    def _abandon(self, flight: Flight[E]) -> None:
        if flight.n_listening == 0 and flight.task is not None:
            self._unregister(flight)  # nobody shall follow what is about to be closed
            flight.task.cancel()

    async def _fly(self, flight: Flight[E], start: Start[E]) -> None:
        try:
            with flight.events.producing(ShuttingDown("the answer was stopped")):
                async with aclosing(start()) as events:
                    async for event in events:
                        flight.events.append(event)
        finally:
            self._unregister(flight)

    def _find(self, asked: CacheKey) -> tuple[Flight[E], float] | None:
        flight = self._by_id.get(asked.id)
        if flight is not None:
            return flight, 1.0
        index = self._indexes.get(asked.partition)
        if index is None or asked.embedding is None or self._threshold is None:
            return None
        features = read_question(asked.question)
        for near in index.search(asked.embedding, self._threshold, now=0.0):
            flight = self._by_id[near.id]
            is_like = veto(features, read_question(flight.asked.question)) is None
            if is_like and self._may_share(near.id, asked.question):
                return flight, near.similarity
        return None

    def _register(self, flight: Flight[E]) -> Flight[E]:
        id, embedding = flight.asked.id, flight.asked.embedding
        self._by_id[id] = flight
        if embedding is not None:
            partition = flight.asked.partition
            index = self._indexes.get(partition)
            if index is None:
                index = self._indexes[partition] = SemanticIndex(len(embedding))
            index.add(id, embedding, expires_at=1.0)
        return flight

    def _unregister(self, flight: Flight[E]) -> None:
        id = flight.asked.id
        if self._by_id.get(id) is not flight:
            return
        del self._by_id[id]
        index = self._indexes.get(flight.asked.partition)
        if index is not None:
            index.remove(id)
            if not len(index):
                del self._indexes[flight.asked.partition]
