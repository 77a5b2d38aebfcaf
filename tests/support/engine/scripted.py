"""An engine that says exactly what a test scripts, byte by byte, on a loopback port.

It speaks plain HTTP/1.1 over a raw socket, so that it can refuse, stall, cut and lie where a
real server library would not.
"""

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from tests.support.threaded import ThreadedServer


class Call(msgspec.Struct):
    """One request as it arrived, and when its connection ended."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    gone_at: float | None = None
    """time.monotonic() when the other side closed before we had finished."""

    def json(self) -> dict:
        return json.loads(self.body)


class Exchange:
    """What a script writes its answer with."""

    def __init__(self, call: Call, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.call = call
        self._reader = reader
        self._writer = writer

    async def head(self, status: int = 200, content_type: str = "text/event-stream") -> None:
        """Send the head of a close-delimited response."""
        lines = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nConnection: close\r\n\r\n"
        await self.send(lines.encode())

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def json(self, status: int, body: object) -> None:
        await self.head(status, "application/json")
        await self.send(json.dumps(body).encode())

    def reset(self) -> None:
        """End the connection with RST instead of FIN."""
        raw = self._writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def until_gone(self, within_s: float = 10) -> None:
        """Wait until the other side closes its connection."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(within_s):
                while await self._reader.read(1024):
                    pass
                self.call.gone_at = time.monotonic()


Script = Callable[[Exchange], Awaitable[None]]


def event(payload: object) -> bytes:
    return b"data: " + json.dumps(payload, ensure_ascii=False).encode() + b"\n\n"


def delta(content: str | None, finish_reason: str | None = None, **extra: object) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    return event({"id": "x", "choices": [choice], **extra})


def usage(prompt_tokens: int, completion_tokens: int) -> bytes:
    counts = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    return event({"choices": [], "usage": counts})


DONE = b"data: [DONE]\n\n"


def saying(
    pieces: Sequence[str] = ("Paris", " is", " it."),
    *,
    every: float = 0.0,
    first_after: float = 0.0,
    finish_reason: str = "stop",
) -> Script:
    """A well-behaved answer."""

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await asyncio.sleep(first_after)
        gone = asyncio.ensure_future(exchange.until_gone(60))
        for piece in pieces:
            await exchange.send(delta(piece))
            if every:
                await asyncio.sleep(every)
            if gone.done():
                return
        gone.cancel()
        await exchange.send(delta("", finish_reason) + usage(39, len(pieces)) + DONE)

    return script


def sending(*parts: bytes, status: int = 200) -> Script:
    """Send these bytes as a stream and close."""

    async def script(exchange: Exchange) -> None:
        await exchange.head(status)
        for part in parts:
            await exchange.send(part)

    return script


class FakeEngine(ThreadedServer):
    """Set `script` to what the next answers shall be."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.script: Script = saying()
        self.facts: dict[str, object] = {}
        """What GET routes answer, beside 200 with an empty object."""
        self.facts_status = 200

    @property
    def chats(self) -> list[Call]:
        return [call for call in self.calls if call.path == "/v1/chat/completions"]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        call = await _read_call(reader)
        if call is None:
            return
        self.calls.append(call)
        exchange = Exchange(call, reader, writer)
        if call.method == "POST":
            await self.script(exchange)
        else:
            await exchange.json(self.facts_status, self.facts.get(call.path, {}))


async def _read_call(reader: asyncio.StreamReader) -> Call | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    request, *lines = head.strip().split("\r\n")
    method, path, _ = request.split(" ", 2)
    headers = {name.lower(): value.strip() for name, value in (x.split(":", 1) for x in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Call(method, path, headers, body)
