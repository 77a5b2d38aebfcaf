"""What relaying costs: ragrelay beside a bare byte pipe and beside the engine itself, one run.

python -m bench.relay            the rows
python -m bench.relay soak       10,000 streams, half of them cut by the client

A scripted engine, the pipe (aiohttp → uvicorn, bytes as they come), ragrelay with retrieval
stubbed, and the load are processes of their own; CPU time is that of the relaying process alone.
"""

import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import uvicorn

from tests.support.ports import free_port

Row = dict[str, object]

CHUNK = (
    b'data: {"object":"chat.completion.chunk","id":"","created":1741265133,"model":"m",'
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":" word"},"logprobs":null,'
    b'"finish_reason":null}],"usage":null}\n\n'
)
END = (
    b'data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":9}}\n\ndata: [DONE]\n\n'
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
ASKED = json.dumps({"query": "What is this?"}).encode()


async def engine(port: int) -> None:
    """Stream `max_tokens` tokens, `temperature` * 1000 of them a second."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if head.startswith(b"get"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
                await writer.drain()
                return
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            asked = json.loads(await reader.readexactly(length))
            pause = 1 / (1000 * asked["temperature"])
            writer.write(HEAD)
            loop = asyncio.get_running_loop()
            due = loop.time()
            for _ in range(asked["max_tokens"]):
                due += pause
                await asyncio.sleep(max(0.0, due - loop.time()))
                if writer.transport.is_closing():
                    return
                writer.write(CHUNK)
            writer.write(END)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


def pipe(port: int, engine_url: str) -> None:
    """The bare limit: an ASGI app that passes the engine's bytes on."""
    session: aiohttp.ClientSession | None = None

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal session
        if scope["type"] != "http":
            return
        session = session or aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        body = (await receive())["body"]
        url = f"{engine_url}/v1/chat/completions"
        async with session.post(url, data=body) as response:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            async for chunk in response.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    uvicorn.run(app, port=port, log_level="error", lifespan="off", ws="none", backlog=4096)


def ragrelay(port: int, engine_url: str, *, cached: bool = False) -> None:
    """The whole service, less the search; `cached`: each answer may be shared and is kept."""
    from types import SimpleNamespace

    from api.app import create_app
    from api.settings.env import Settings
    from retrieval.search.retriever import Retrieval
    from retrieval.types import Hit, Passage, Scores

    passage = Passage("d:0", "d", "Title", "A passage of text.", 0, 18, {})
    found = Retrieval([Hit(passage, 1, Scores(0.5, 1.0, 1.0))], {"embed": 0.0}, "g")

    async def retrieve(query: str, k: int, *, query_embedding: object = None) -> Retrieval:
        return found

    async def run() -> None:
        pass

    app = create_app(
        Settings.from_env({"ENGINE": "tgi", "ENGINE_URL": engine_url, "CACHE_ENABLED": str(cached)})
    )
    app.service.loader = SimpleNamespace(  # type: ignore[assignment]
        retriever=lambda: SimpleNamespace(
            retrieve=retrieve, index=SimpleNamespace(generation="g")
        ),
        index=None, checks=dict, run=run, close=lambda: None, cache_embedder=None,
        shares_embedder=False,
    )  # fmt: skip
    uvicorn.run(app, port=port, log_level="error", log_config=None, ws="none", backlog=4096)


@contextmanager
def process(role: str, *arguments: str) -> Any:
    """Run one of the roles above and yield (port, pid) once it listens."""
    port = free_port()
    command = [sys.executable, "-m", "bench.relay", role, str(port), *arguments]
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            try:
                import socket

                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            except OSError:
                time.sleep(0.1)
        time.sleep(1.0)
        yield port, child.pid
    finally:
        child.kill()
        child.wait()


def cpu_s(pid: int) -> float:
    """Return the CPU time of all threads, by the scheduler's own clock.

    utime and stime are sampled at 100 Hz, in step with streams of 50 tokens a second.
    """
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def rss_mb(pid: int) -> float:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


_numbers = itertools.count()
"""No two questions are equal: the cache answers none of them."""


def asked_of(role: str, tokens: int, rate: float) -> tuple[bytes, bytes]:
    """The request to that role and what marks a token in its answer."""
    options = {"max_tokens": tokens, "temperature": rate / 1000}
    if role in ("ragrelay", "cached"):
        path, body = "/query/stream", {"query": f"What is {next(_numbers)}?", **options}
        mark = b'{"token":'
    else:
        path, body = "/v1/chat/completions", {"messages": [], **options}
        mark = b'" word"'
    raw = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(raw)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + raw, mark


tokens_seen = 0
"""By all streams of this process so far."""


async def stream(
    port: int, request: bytes, mark: bytes, *, leave_after: int | None = None
) -> tuple[int, float]:
    """Return the tokens seen and the seconds to the first one."""
    started = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    seen, first, rest = 0, 0.0, b""
    global tokens_seen
    while chunk := await reader.read(65536):
        data = rest + chunk
        found = data.count(mark)
        rest = data[data.rfind(mark) + len(mark) :][-200:] if found else data[-200:]
        if found and not seen:
            first = time.perf_counter() - started
        seen += found
        tokens_seen += found
        if leave_after is not None and seen >= leave_after:
            break
    writer.close()
    return seen, first


async def burst(
    port: int, role: str, *, streams: int, tokens: int, rate: float
) -> tuple[int, list[float], float]:
    request, mark = asked_of(role, tokens, rate)
    started = time.perf_counter()
    answers = await asyncio.gather(*(stream(port, request, mark) for _ in range(streams)))
    return (
        sum(n for n, _ in answers),
        [first for _, first in answers],
        time.perf_counter() - started,
    )


async def firsts_beside(port: int, role: str, *, open_streams: int) -> list[float]:
    """Seconds to the first token of one stream after another, while others run."""
    request, mark = asked_of(role, 400, 50)
    others = [asyncio.create_task(stream(port, request, mark)) for _ in range(open_streams)]
    await asyncio.sleep(1)
    request, mark = asked_of(role, 1, 1000)
    firsts = [(await stream(port, request, mark))[1] for _ in range(100)]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return firsts


async def relaying_cpu_s(port: int, pid: int, role: str) -> float:
    """CPU a token while 16 streams run, their beginnings and ends left out."""
    asked = [asked_of(role, 300, 50) for _ in range(16)]
    streams = [asyncio.create_task(stream(port, request, mark)) for request, mark in asked]
    await asyncio.sleep(1)
    tokens, cpu = tokens_seen, cpu_s(pid)
    await asyncio.sleep(4)
    cost = (cpu_s(pid) - cpu) / (tokens_seen - tokens)
    await asyncio.gather(*streams)
    return cost


async def request_cpu_s(port: int, pid: int, role: str) -> float:
    """CPU a request with one token, one after another."""
    before = cpu_s(pid)
    for _ in range(100):
        await stream(port, *asked_of(role, 1, 1000))
    return (cpu_s(pid) - before) / 100


def rows() -> list[Row]:
    cost: dict[str, list[float]] = {"pipe": [], "ragrelay": [], "cached": []}
    start: dict[str, list[float]] = {"pipe": [], "ragrelay": [], "cached": []}
    first: dict[str, list[float]] = {"engine": [], "pipe": [], "ragrelay": []}
    rate: dict[str, list[float]] = {"engine": [], "pipe": [], "ragrelay": []}
    with process("engine") as (engine_port, _):
        url = f"http://127.0.0.1:{engine_port}"
        with (
            process("pipe", url) as piped,
            process("ragrelay", url) as relayed,
            process("cached", url) as cached,
        ):
            ports = {"engine": (engine_port, 0), "pipe": piped, "ragrelay": relayed}
            for role, (port, _) in ports.items():  # warm
                asyncio.run(burst(port, role, streams=4, tokens=20, rate=50))
            ports["cached"] = cached
            for _ in range(3):
                for role in cost:
                    port, pid = ports[role]
                    cost[role].append(asyncio.run(relaying_cpu_s(port, pid, role)) * 1e6)
                    start[role].append(asyncio.run(request_cpu_s(port, pid, role)) * 1e3)
            for role in first:
                port, _ = ports[role]
                first[role] = asyncio.run(firsts_beside(port, role, open_streams=16))
            for _ in range(2):
                for role in rate:
                    port, _ = ports[role]
                    n, _, s = asyncio.run(burst(port, role, streams=128, tokens=120, rate=30))
                    rate[role].append(n / s)
    ours, bare = median(cost["ragrelay"]), median(cost["pipe"])
    added = (median(first["ragrelay"]) - median(first["engine"])) * 1000
    added_bare = (median(first["pipe"]) - median(first["engine"])) * 1000
    through, direct = median(rate["ragrelay"]), median(rate["engine"])
    return [
        {"what": "CPU a relayed token, 16 streams × 50/s", "ours": f"{ours:.0f} µs",
         "bare": f"byte pipe {bare:.0f} µs", "ratio": f"{ours / bare:.2f}", "goal": "≤ 1.5"},
        {"what": "the same with the answer cache on", "ours": f"{median(cost['cached']):.0f} µs",
         "bare": f"byte pipe {bare:.0f} µs", "ratio": f"{median(cost['cached']) / bare:.2f}",
         "goal": ""},
        {"what": "CPU a request with one token", "ours": f"{median(start['ragrelay']):.1f} ms",
         "bare": f"byte pipe {median(start['pipe']):.1f} ms",
         "ratio": f"{median(start['ragrelay']) / median(start['pipe']):.2f}", "goal": ""},
        {"what": "added to the first token, 16 streams open", "ours": f"{added:.1f} ms",
         "bare": f"byte pipe {added_bare:.1f} ms", "ratio": f"{added / max(added_bare, 0.1):.2f}",
         "goal": "≤ 3 ms"},
        {"what": "tokens/s, 128 streams × 30/s", "ours": f"{through:.0f}",
         "bare": f"engine direct {direct:.0f}", "ratio": f"{through / direct:.3f}",
         "goal": "≥ 0.95"},
    ]  # fmt: skip


async def _soak(port: int, pid: int, total: int, report: Callable[[int, float], None]) -> None:
    request, mark = asked_of("ragrelay", 20, 400)
    gate = asyncio.Semaphore(64)

    async def one(n: int) -> None:
        async with gate:
            await stream(port, request, mark, leave_after=5 if n % 2 else None)

    for done in range(0, total, 1000):
        await asyncio.gather(*(one(n) for n in range(1000)))
        await asyncio.sleep(0.5)
        report(done + 1000, rss_mb(pid))


def _sockets(pid: int) -> int:
    folder = Path(f"/proc/{pid}/fd")
    return sum("socket" in os.readlink(link) for link in folder.iterdir())


def soak(total: int = 10_000) -> list[Row]:
    """RSS and sockets of ragrelay over many streams, half of them left after five tokens."""
    seen: list[tuple[int, float]] = []
    with process("engine") as (engine_port, _):
        with process("ragrelay", f"http://127.0.0.1:{engine_port}") as (port, pid):
            sockets_before = _sockets(pid)
            asyncio.run(_soak(port, pid, total, lambda n, mb: seen.append((n, mb))))
            time.sleep(1.0)
            sockets = _sockets(pid) - sockets_before
            metrics = subprocess.run(
                ["curl", "-s", f"http://127.0.0.1:{port}/metrics"], capture_output=True, text=True
            ).stdout
    open_streams = next(x for x in metrics.splitlines() if x.startswith("rag_open_streams"))
    growth = seen[-1][1] - seen[0][1]
    return [
        {"what": f"RSS growth after the first 1,000 of {total} streams", "ours": f"{growth:.1f} MB",
         "bare": f"{seen[0][1]:.0f} MB at 1,000", "ratio": f"{seen[-1][1] / seen[0][1]:.3f}",
         "goal": "< 5 MB"},
        {"what": "left open after them", "ours": f"{open_streams}, {sockets} sockets",
         "bare": "", "ratio": "", "goal": "0"},
    ]  # fmt: skip


def main() -> None:
    role, *arguments = sys.argv[1:] or ["rows"]
    match role:
        case "engine":
            asyncio.run(engine(int(arguments[0])))
        case "pipe":
            pipe(int(arguments[0]), arguments[1])
        case "ragrelay":
            ragrelay(int(arguments[0]), arguments[1])
        case "cached":
            ragrelay(int(arguments[0]), arguments[1], cached=True)
        case "soak":
            print_rows(soak())
        case _:
            print_rows(rows())


def print_rows(found: list[Row]) -> None:
    print("| | ours | beside it | ratio | goal |\n|---|---|---|---|---|")
    for row in found:
        print(
            "| "
            + " | ".join(str(row[key]) for key in ("what", "ours", "bare", "ratio", "goal"))
            + " |"
        )


if __name__ == "__main__":
    main()
