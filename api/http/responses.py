"""ASGI responses for an answer: one JSON body, or a stream of server-sent events.

Both are ASGI responses that own the answer's generator: it runs in one task, is closed on every
way out, and is stopped within a second when the client leaves, also before the first byte
(Litestar runs a handler to its end then, and leaves a generator open when `send` fails).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec

from api import sse
from api.answering.events import Collected, Done, Event, Sources
from api.errors import RagError, ShuttingDown, answer_for, retry_after
from api.http.interrupt import (
    CLOSE_S,
    WATCH_AFTER_S,
    ClientGone,
    Receive,
    run_until,
    wait_for_disconnect,
)
from api.http.schemas import QueryResponse
from api.http.wire import OwnWire, Wire
from api.logs import logger
from api.runtime.drain import Drain
from api.telemetry.record import Record

Scope = dict[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]

HEARTBEAT_S = 15.0
STALL_S = 30.0
"""A client that reads nothing for this long after a heartbeat is due is cut."""

NO_HEADERS: Mapping[str, str] = {}

_encoder = msgspec.json.Encoder()


def note_failure(record: Record, error: BaseException) -> None:
    """Note on the record how the answer failed; a bug of ours is logged with its traceback."""
    row = answer_for(error)
    record.outcome, record.error = row.outcome, row.code
    if not isinstance(error, RagError):
        logger.error("bug", exc_info=error, extra={"facts": {"request_id": record.request_id}})


async def send_json(
    send: Send, record: Record, status: int, body: object, headers: Mapping[str, str] = NO_HEADERS
) -> None:
    record.status = status
    data = _encoder.encode(body)
    start = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
    start += [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": data})


async def send_error(send: Send, record: Record, error: BaseException, wire: Wire) -> None:
    """Answer with the error's status and body."""
    note_failure(record, error)
    status, body = wire.refusal(error)
    await send_json(send, record, status, body, retry_after(error))


async def collect(events: AsyncGenerator[Event]) -> QueryResponse:
    """Run an answer to its end and return it whole."""
    collected = Collected()
    async with aclosing(events):
        async for event in events:
            collected.add(event)
            if isinstance(event, Done):
                return QueryResponse(
                    answer=collected.text,
                    sources=collected.sources,
                    citations=collected.citations,
                    **msgspec.structs.asdict(event),
                )
    raise RuntimeError("an answer ended without Done. This is a bug.")


class PlainAnswer:
    """ASGI response: the whole answer as one JSON body."""

    def __init__(
        self, events: AsyncGenerator[Event], record: Record, drain: Drain, wire: Wire | None = None
    ) -> None:
        self._events = events
        self._record = record
        self._drain = drain
        self._wire = wire or OwnWire(record.request_id)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: list[QueryResponse] = []

        async def work() -> None:
            response.append(await collect(self._events))

        with self._drain.answering():
            try:
                await run_until(work(), partial(wait_for_disconnect, receive), self._drain.over)
            except ClientGone:
                self._record.outcome = "client_gone"
            except Exception as error:
                await send_error(send, self._record, error, self._wire)
            else:
                await send_json(send, self._record, 200, self._wire.whole(response[0]))


class StreamedAnswer:
    """ASGI response: the answer as server-sent events.

    Nothing is sent before the first token, so that errors up to then keep their status. When
    the first token takes longer than `commit_s`, 200 and the sources go out, then heartbeats;
    later errors become `event: error`. `commit_s` 0 sends 200 before anything is known.
    """

    def __init__(
        self,
        events: AsyncGenerator[Event],
        record: Record,
        drain: Drain,
        wire: Wire | None = None,
        *,
        commit_s: float,
        heartbeat_s: float = HEARTBEAT_S,
        stall_s: float = STALL_S,
    ) -> None:
        self._events = events
        self._record = record
        self._drain = drain
        self._wire = wire or OwnWire(record.request_id)
        self._commit_s = commit_s
        self._heartbeat_s = heartbeat_s
        self._stall_s = stall_s
        self._held: list[bytes] = []
        self._is_committed = False
        self._last_sent = 0.0
        self._committed: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        # Straight to the server: nothing on the way looks at the body, and each layer costs.
        self._send_body = scope.get("state", {}).get("send", send)
        ends = (partial(wait_for_disconnect, receive), self._drain.over, self._fill_silence)
        with self._drain.answering():
            try:
                await run_until(self._relay(), *ends)
            except ClientGone:
                self._record.outcome = "client_gone"
            except ShuttingDown as error:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CLOSE_S):
                        await self._tell(error)

    async def _relay(self) -> None:
        try:
            async with aclosing(self._events):
                if not self._commit_s:
                    await self._commit()
                async for event in self._events:
                    frame = self._wire.frame(event)
                    if not frame:
                        continue
                    if self._is_committed:
                        await self._write(frame)
                    elif self._committed is not None:
                        await self._commit()
                        await self._write(frame)
                    else:
                        self._held.append(frame)
                        if not isinstance(event, Sources):
                            await self._commit()
        except Exception as error:
            await self._tell(error)
        else:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, error: Exception) -> None:
        """End with an error: with its status where nothing was sent, else as an event."""
        if self._committed is None:
            self._committed = asyncio.get_running_loop().create_future()
            await send_error(self._send, self._record, error, self._wire)
            return
        await self._commit()
        note_failure(self._record, error)
        await self._write(self._wire.error_frame(error))
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _commit(self, filler: bytes = b"") -> None:
        """Send 200 and what was held back, else `filler`; who comes second waits for the first."""
        if self._committed is not None:
            await self._committed
            return
        self._committed = asyncio.get_running_loop().create_future()
        self._record.status = 200
        held, self._held = b"".join(self._held), []
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache, no-transform"),
            (b"x-accel-buffering", b"no"),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        if begun := held or filler:
            await self._write(begun)
        self._is_committed = True
        self._committed.set_result(None)

    def _write(self, data: bytes) -> Awaitable[None]:
        self._last_sent = time.monotonic()
        message = {"type": "http.response.body", "body": data, "more_body": True}
        sent: Awaitable[None] = self._send_body(message)
        return sent

    async def _fill_silence(self) -> ClientGone:
        """Commit when the first token is late; then send a comment whenever nothing else goes.

        Returns when a comment cannot be sent: the client has stopped reading.
        """
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.sleep(self._commit_s - WATCH_AFTER_S)
            async with asyncio.timeout(self._stall_s):
                await self._commit(sse.HEARTBEAT)
            while True:
                quiet_s = time.monotonic() - self._last_sent
                if quiet_s < self._heartbeat_s:
                    await asyncio.sleep(self._heartbeat_s - quiet_s)
                else:
                    async with asyncio.timeout(self._stall_s):
                        await self._write(sse.HEARTBEAT)
        return ClientGone()
