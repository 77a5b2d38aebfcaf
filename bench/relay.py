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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench.support.processes import free_port, is_open, module, until
from bench.support.tables import Row, print_rows


@contextmanager
def process(role: str, *arguments: str) -> Iterator[tuple[int, int]]:
    """Run one of the roles of bench.relay_roles; yields (port, process id) once it listens."""
    port = free_port()
    with module("bench.relay_roles", role, str(port), *arguments) as pid:
        until(lambda: is_open(port))
        time.sleep(1.0)
        yield port, pid


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
    print_rows(soak() if sys.argv[1:] == ["soak"] else rows())


if __name__ == "__main__":
    main()
