"""Resumable streams: answers kept for a while, to be read on from where a connection broke.

A kept stream runs its answer in a task of its own and holds every event, so that each reader gets
the same numbered frames, from wherever it left. Without a reader it goes on for API_RESUME_SECONDS
and is stopped and forgotten then; the answer is made, and paid for, once.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from api.answering.events import Event, Token
from api.broadcast import Broadcast
from api.errors import EngineFailed, Invalid, NotFound, ShuttingDown
from api.http.interrupt import run_until
from api.runtime.drain import Drain

MAX_STREAMS = 128
MAX_BYTES = 1 << 20
"""Of one stream: ten times the longest answer of 1,024 tokens with 20 sources."""
TOKEN_BYTES = 100
"""What an event takes beside its text."""
CLOSE_S = 5.0

Owner = tuple[str, str]
"""Tenant and key: who may read a stream."""


class KeptStream:
    """One answer while it is made, and for a while after. `request_id` is of who asked."""

    def __init__(self, owner: Owner, request_id: str) -> None:
        self.id = secrets.token_urlsafe(24)
        self.owner = owner
        self.request_id = request_id
        self.events: Broadcast[Event] = Broadcast()
        self.n_readers = 0
        self.task: asyncio.Task[None] | None = None
        self.expiry: asyncio.TimerHandle | None = None
        self._n_bytes = 0

    async def run(self, events: AsyncGenerator[Event], drain: Drain) -> None:
        """Take the answer in to its end; how it failed is told to the readers."""
        with self.events.producing(ShuttingDown("the answer was stopped")), drain.answering():
            await run_until(self._take_in(events), drain.over)

    async def _take_in(self, events: AsyncGenerator[Event]) -> None:
        async with aclosing(events):
            async for event in events:
                self._n_bytes += _size(event)
                if self._n_bytes > MAX_BYTES:
                    raise EngineFailed("the answer is longer than a resumable one may be")
                self.events.append(event)

    def has_after(self, sent: int) -> bool:
        """Whether anything follows, or may follow, event number `sent`. Raises Invalid."""
        n_events = len(self.events) + (self.events.error is not None)
        if sent > n_events:
            raise Invalid("Last-Event-ID: there is no such event yet")
        return sent < n_events or not self.events.has_ended


class KeptStreams:
    """Those of one app, at most `max_streams`; `keep_s` is how long one goes on unread."""

    def __init__(self, drain: Drain, *, keep_s: float, max_streams: int = MAX_STREAMS) -> None:
        self._drain = drain
        self._keep_s = keep_s
        self._max_streams = max_streams
        self._by_id: OrderedDict[str, KeptStream] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._by_id)

    def keep(
        self, events: AsyncGenerator[Event], owner: Owner, request_id: str
    ) -> KeptStream | None:
        """Begin an answer that is kept; None, and nothing begun, where there is no room."""
        if not self._has_room():
            return None
        kept = KeptStream(owner, request_id)
        self._by_id[kept.id] = kept
        kept.task = asyncio.create_task(kept.run(events, self._drain), name="kept stream")
        self._tasks.add(kept.task)
        kept.task.add_done_callback(self._tasks.discard)
        self._expire_later(kept)
        return kept

    def find(self, id: str, owner: Owner) -> KeptStream:
        """Return the owner's stream. Raises NotFound, for a stream of somebody else as well."""
        kept = self._by_id.get(id)
        if kept is None or kept.owner != owner:
            raise NotFound("no such stream, or it is not kept any more")
        return kept

    async def read(self, kept: KeptStream, sent: int) -> AsyncGenerator[Event]:
        """Yield what follows event number `sent` as it comes. Raises what the answer raised.

        The stream lives on as long as it is read.
        """
        kept.n_readers += 1
        if kept.expiry is not None:
            kept.expiry.cancel()
        try:
            while events := await kept.events.after(sent):
                for event in events:
                    yield event
                sent += len(events)
            if kept.events.error is not None:
                raise kept.events.error
        finally:
            kept.n_readers -= 1
            if kept.n_readers == 0:
                self._expire_later(kept)

    async def close(self) -> None:
        """Stop all answers; who still reads is told."""
        for kept in list(self._by_id.values()):
            self._forget(kept)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=CLOSE_S)

    def _has_room(self) -> bool:
        """Make room where an answer has ended and nobody reads it, the oldest first."""
        if len(self._by_id) < self._max_streams:
            return True
        for kept in self._by_id.values():
            if kept.events.has_ended and kept.n_readers == 0:
                self._forget(kept)
                return True
        return False

    def _expire_later(self, kept: KeptStream) -> None:
        loop = asyncio.get_running_loop()
        kept.expiry = loop.call_later(self._keep_s, self._forget, kept)

    def _forget(self, kept: KeptStream) -> None:
        self._by_id.pop(kept.id, None)
        if kept.expiry is not None:
            kept.expiry.cancel()
        if kept.task is not None:
            kept.task.cancel()


def event_number(last_event_id: str | None) -> int:
    """Return the number in a Last-Event-ID header, 0 without one. Raises Invalid."""
    if not last_event_id:
        return 0
    if not last_event_id.isascii() or not last_event_id.isdigit() or len(last_event_id) > 9:
        raise Invalid("Last-Event-ID: must be the id of an event of this stream")
    return int(last_event_id)


def _size(event: Event) -> int:
    if isinstance(event, Token):
        return TOKEN_BYTES + len(event.token.encode())
    return len(msgspec.json.encode(event))
