"""The two ways an answer leaves: as one JSON body or as server-sent events.

Both are ASGI responses that own the answer's generator: it runs in one task, is closed on every
way out, and is stopped within a second when the client leaves, also before the first byte
(Litestar runs a handler to its end then, and leaves a generator open when `send` fails).
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec

from api import sse
from api.drain import Drain
from api.errors import ErrorBody, RagError, ShuttingDown, answer_for
from api.logs import logger
from api.schemas import Done, Event, QueryResponse, Source, Sources, Token
from api.telemetry import Record

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

HEARTBEAT_S = 15.0
STALL_S = 30.0
"""A client that reads nothing for this long after a heartbeat is due is cut."""
WATCH_AFTER_S = 0.05
"""A cached answer is gone by then: only what lasts longer is watched for its client leaving."""
CLOSE_S = 5.0
"""How long an answer may take to give back what it holds, once stopped."""

_encoder = msgspec.json.Encoder()


class ClientGone(Exception):
    """The client closed its connection before the answer ended."""


def failed(record: Record, error: BaseException) -> None:
    """Note on the record how the answer failed; a bug of ours is logged with its traceback."""
    row = answer_for(error)
    record.outcome, record.error = row.outcome, row.code
    if not isinstance(error, RagError):
        logger.error("bug", exc_info=error, extra={"facts": {"request_id": record.request_id}})


async def send_json(
    send: Send, record: Record, status: int, body: object, *headers: tuple[bytes, bytes]
) -> None:
    record.status = status
    data = _encoder.encode(body)
    sized = (b"content-length", b"%d" % len(data))
    start = [(b"content-type", b"application/json"), sized, *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": data})


async def send_error(send: Send, record: Record, error: BaseException) -> None:
    """Answer with the error's status and body."""
    failed(record, error)
    headers = []
    if isinstance(error, RagError) and error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s))))
    body = ErrorBody.of(error, record.request_id)
    await send_json(send, record, answer_for(error).status, body, *headers)


End = Callable[[], Awaitable[BaseException]]
"""Waits for a reason to stop an answer, and returns it."""


class _Watch:
    """Cancels a task, until it ends, as soon as one of `ends` gives a reason."""

    def __init__(self, task: asyncio.Task[Any], ends: tuple[End, ...]) -> None:
        self.reason: BaseException | None = None
        self._task = task
        self._ends = ends
        self._watchers: list[asyncio.Future[BaseException]] = []
        self._timer = task.get_loop().call_later(WATCH_AFTER_S, self._begin)

    def close(self) -> None:
        self._timer.cancel()
        for watcher in self._watchers:
            watcher.remove_done_callback(self._stop)
            watcher.cancel()

    def _begin(self) -> None:
        self._watchers = [asyncio.ensure_future(end()) for end in self._ends]
        for watcher in self._watchers:
            watcher.add_done_callback(self._stop)

    def _stop(self, watcher: asyncio.Future[BaseException]) -> None:
        """Once more after a while: a library that awaits badly may swallow a cancellation."""
        self.reason = self.reason or watcher.result()
        self._timer.cancel()
        self._timer = self._task.get_loop().call_later(CLOSE_S, self._stop, watcher)
        self._task.cancel()


async def run_until(work: Awaitable[None], *ends: End) -> None:
    """Run `work` to its end, or stop it and raise the reason that one of `ends` gives.

    In this task: one more for each request costs as much as a cached answer. If we ourselves
    are cancelled (the server gives up), so is the work.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("an answer outside of a task. This is a bug.")
    n_cancels = task.cancelling()
    watch = _Watch(task, ends)
    try:
        await work
    except asyncio.CancelledError:
        if watch.reason is None:
            raise
    finally:
        watch.close()
    if watch.reason is not None:
        while task.cancelling() > n_cancels:
            task.uncancel()
        raise watch.reason


async def _leaves(receive: Receive) -> ClientGone:
    while (await receive())["type"] != "http.disconnect":
        pass
    return ClientGone()


async def collect(events: AsyncGenerator[Event]) -> QueryResponse:
    """Run an answer to its end and return it whole."""
    sources: list[Source] = []
    tokens: list[str] = []
    async with aclosing(events):
        async for event in events:
            match event:
                case Token(token):
                    tokens.append(token)
                case Sources(sources):
                    pass
                case Done():
                    facts = msgspec.structs.asdict(event)
                    return QueryResponse(answer="".join(tokens), sources=sources, **facts)
    raise RuntimeError("an answer ended without Done. This is a bug.")


class PlainAnswer:
    """ASGI response: the whole answer as one JSON body."""

    def __init__(self, events: AsyncGenerator[Event], record: Record, drain: Drain) -> None:
        self._events = events
        self._record = record
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: list[QueryResponse] = []

        async def work() -> None:
            response.append(await collect(self._events))

        with self._drain.answering():
            try:
                await run_until(work(), partial(_leaves, receive), self._drain.over)
            except ClientGone:
                self._record.outcome = "client_gone"
            except Exception as error:
                await send_error(send, self._record, error)
            else:
                await send_json(send, self._record, 200, response[0])


class StreamedAnswer:
    """ASGI response: the answer as server-sent events.

    Nothing is sent before the first token, so that errors up to then keep their status. When
    the first token takes longer than `commit_s`, 200 and the sources go out, then heartbeats;
    later errors become `event: error`.
    """

    def __init__(
        self,
        events: AsyncGenerator[Event],
        record: Record,
        drain: Drain,
        *,
        commit_s: float,
        heartbeat_s: float = HEARTBEAT_S,
        stall_s: float = STALL_S,
    ) -> None:
        self._events = events
        self._record = record
        self._drain = drain
        self._commit_s = commit_s
        self._heartbeat_s = heartbeat_s
        self._stall_s = stall_s
        self._held: list[bytes] = []
        self._is_committed = False
        self._number = 0
        self._last_sent = 0.0
        self._committed: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        # Straight to the server: nothing on the way looks at the body, and each layer costs.
        self._send_body = scope.get("state", {}).get("send", send)
        ends = (partial(_leaves, receive), self._drain.over, self._fill_silence)
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
                async for event in self._events:
                    frame = self._frame(event.event, event)
                    if self._is_committed:
                        await self._write(frame)
                    elif isinstance(event, Sources) and self._committed is None:
                        self._held.append(frame)
                    else:
                        await self._commit()
                        await self._write(frame)
        except Exception as error:
            await self._tell(error)
        else:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, error: Exception) -> None:
        """End with an error: with its status where nothing was sent, else as an event."""
        if self._committed is None:
            self._committed = asyncio.get_running_loop().create_future()
            await send_error(self._send, self._record, error)
            return
        await self._commit()
        failed(self._record, error)
        frame = self._frame(b"error", ErrorBody.of(error, self._record.request_id))
        await self._write(frame)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def _frame(self, event: bytes, payload: object) -> bytes:
        self._number += 1
        return sse.encode_frame(event, self._number, payload)

    async def _commit(self) -> None:
        """Send 200 and what was held back, once; whoever comes second waits for the first."""
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
        await self._write(held or sse.HEARTBEAT)
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
                await self._commit()
            while True:
                quiet_s = time.monotonic() - self._last_sent
                if quiet_s < self._heartbeat_s:
                    await asyncio.sleep(self._heartbeat_s - quiet_s)
                else:
                    async with asyncio.timeout(self._stall_s):
                        await self._write(sse.HEARTBEAT)
        return ClientGone()
