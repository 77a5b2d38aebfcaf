"""Clients on raw sockets, so that the load costs less than what it loads."""

import asyncio
import itertools
import json
import time
import urllib.request
from collections.abc import Iterable
from typing import Any, NamedTuple

OURS = b'{"token":'
ENGINES = b'" word'

_numbers = itertools.count()


class Request(NamedTuple):
    port: int
    raw: bytes
    mark: bytes
    """What there is one of for each token of the answer."""
    tokens: int


class Streamed(NamedTuple):
    tokens: int
    first_s: float
    """Seconds to the first token."""


class Crowd:
    """Counts the tokens of streams, and those that came while all `size` of them ran."""

    def __init__(self, size: int) -> None:
        self.tokens = 0
        self._size = size
        self._begun = 0
        self.begun = asyncio.Event()
        """All of them have had a token."""
        self._all_run: tuple[float, int] | None = None
        self._one_ended: tuple[float, int] | None = None

    def count(self, tokens: int, *, is_first: bool) -> None:
        self.tokens += tokens
        self._begun += is_first
        if self._begun == self._size and self._all_run is None:
            self._all_run = (time.perf_counter(), self.tokens)
            self.begun.set()

    def end(self) -> None:
        self._one_ended = self._one_ended or (time.perf_counter(), self.tokens)

    def rate(self) -> float:
        """Tokens a second from the last stream's first token to the first stream's end.

        nan where a stream ended before another began.
        """
        if self._all_run is None or self._one_ended is None or self._one_ended <= self._all_run:
            return float("nan")
        seconds = self._one_ended[0] - self._all_run[0]
        return (self._one_ended[1] - self._all_run[1]) / seconds


def new_question() -> str:
    """Return a question that was not asked before: the cache answers none of them."""
    return f"How long is green tea number {next(_numbers)} brewed?"


def to_server(port: int, tokens: int, rate: float, *, question: str = "") -> Request:
    """Ask the server (question "": a new one) for so many tokens at so many a second."""
    body = {"query": question or new_question(), "max_tokens": tokens, "temperature": rate / 1000}
    return Request(port, post("/query/stream", body), OURS, tokens)


def to_engine(port: int, tokens: int, rate: float) -> Request:
    """Ask the engine, or the pipe before it, for the same."""
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": new_question()}],
        "stream": True,
        "max_tokens": tokens,
        "temperature": rate / 1000,
    }
    return Request(port, post("/v1/chat/completions", body), ENGINES, tokens)


def ask(port: int, body: dict[str, object]) -> dict[str, Any]:
    """Return the whole answer to one POST /query."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/query",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def post(path: str, body: object, *, keep: bool = False) -> bytes:
    raw = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(raw)}\r\nConnection: {'keep-alive' if keep else 'close'}\r\n\r\n"
    )
    return head.encode() + raw


async def stream(
    request: Request, crowd: Crowd | None = None, *, leave_after: int | None = None
) -> Streamed:
    """Read an answer to its end, or leave it after so many tokens.

    Raises RuntimeError where it is no answer, or where tokens are missing.
    """
    crowd = crowd or Crowd(1)
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", request.port)
    try:
        writer.write(request.raw)
        rest = await reader.readuntil(b"\r\n\r\n")
        if not rest.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"no answer: {rest.decode()}{(await reader.read(2000)).decode()}")
        seen, first = 0, 0.0
        while chunk := await reader.read(65536):
            data = rest + chunk
            found = data.count(request.mark)
            rest = data[data.rfind(request.mark) + len(request.mark) :] if found else data
            rest = rest[-200:]  # a mark may lie across two chunks
            is_first = bool(found and not seen)
            if is_first:
                first = time.perf_counter() - started
            seen += found
            crowd.count(found, is_first=is_first)
            if leave_after is not None and seen >= leave_after:
                return Streamed(seen, first)
        if seen != request.tokens:
            raise RuntimeError(f"{seen} of {request.tokens} tokens: {rest.decode()}")
        return Streamed(seen, first)
    finally:
        crowd.end()
        writer.close()


async def again_and_again(
    port: int, requests: Iterable[bytes], *, seconds: float, connections: int
) -> list[float]:
    """Seconds of each answer, over kept connections that ask again as soon as they are answered.

    The connections take the requests in turn. Raises RuntimeError at an answer that is none.
    """
    spent: list[float] = []
    waiting = iter(requests)
    end = time.perf_counter() + seconds

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (started := time.perf_counter()) < end:
            writer.write(next(waiting))
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"no answer: {head.decode()}")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            spent.append(time.perf_counter() - started)
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return spent
