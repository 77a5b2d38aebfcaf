"""An OpenAI-compatible engine that answers as it is told, on a thread of its own."""

import asyncio
import json
import threading
from collections.abc import Callable, Sequence
from typing import Self

Answer = Callable[[bytes], Sequence[str]]
"""The pieces of an answer to the body of a request."""

HEAD = "HTTP/1.1 200 X\r\nContent-Type: {}\r\nConnection: close\r\n\r\n"


class ScriptedEngine:
    """Streams `answer`'s pieces, the first after `first_after_s`, then one each `every_s`."""

    def __init__(self, answer: Answer, *, first_after_s: float = 0.0, every_s: float = 0.0) -> None:
        self.port = 0
        self._answer = answer
        self._first_after_s = first_after_s
        self._every_s = every_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        starting = asyncio.start_server(self._handle, "127.0.0.1", 0)
        server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(5)
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if head.startswith(b"get"):
                writer.write(HEAD.format("application/json").encode() + b"{}")
            else:
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                await self._stream(writer, self._answer(await reader.readexactly(length)))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _stream(self, writer: asyncio.StreamWriter, pieces: Sequence[str]) -> None:
        writer.write(HEAD.format("text/event-stream").encode())
        await asyncio.sleep(self._first_after_s)
        for piece in pieces:
            writer.write(_event({"choices": [_choice(piece)]}))
            await writer.drain()
            if self._every_s:
                await asyncio.sleep(self._every_s)
        usage = {"prompt_tokens": 39, "completion_tokens": len(pieces)}
        writer.write(_event({"choices": [_choice("", "stop")]}))
        writer.write(_event({"choices": [], "usage": usage}) + b"data: [DONE]\n\n")


def _choice(content: str, finish_reason: str | None = None) -> dict[str, object]:
    return {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}


def _event(payload: object) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"
