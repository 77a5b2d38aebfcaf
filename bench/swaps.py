"""Sixteen streams while the documents change and change: errors, mixed answers, latency, memory.

    python -m bench.swaps [SWAPS] [DOCUMENTS]

Every document says which edition it is of. The scripted engine answers with the editions that its
prompt holds, so an answer from two generations shows. First the same load without a change.
"""

import asyncio
import re
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import msgspec
import numpy as np

from bench.support.engine import ScriptedEngine
from bench.support.processes import valkey
from bench.support.serving import served
from bench.support.sizes import at_size
from bench.support.tables import print_header

CLIENTS = 16
SWAPS = at_size(60, 2)
DOCUMENTS = at_size(200, 4)
PAUSE_S = 0.1
"""Between two questions of a client: its server shares two cores with it."""
QUIET_S = at_size(10.0, 1.0)


class Answer(msgspec.Struct):
    status: int
    editions: frozenset[str]
    seconds: float


class Load:
    """Clients that ask one streamed question after another."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.answers: list[Answer] = []
        self._session = session
        self._tasks = [asyncio.create_task(self._ask(n)) for n in range(CLIENTS)]

    async def stop(self) -> list[Answer]:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        for end in ended:
            if not isinstance(end, asyncio.CancelledError):
                raise RuntimeError(f"a client failed: {end!r}")
        return self.answers

    async def _ask(self, n: int) -> None:
        while True:
            n += CLIENTS
            body = {"query": f"What does report number {n % DOCUMENTS} tell?", "top_k": 5}
            started = time.perf_counter()
            async with self._session.post("/query/stream", json=body) as response:
                raw = await response.read()
            self.answers.append(_answer(response.status, raw, time.perf_counter() - started))
            await asyncio.sleep(PAUSE_S)


def _answer(status: int, raw: bytes, seconds: float) -> Answer:
    if status != 200:
        return Answer(status, frozenset(), seconds)
    *_, last = raw.rstrip().rpartition(b"\n\n")
    if b"event: done" not in last:
        return Answer(0, frozenset(), seconds)
    return Answer(status, frozenset(re.findall(r"edition-\d+", raw.decode())), seconds)


def cite(body: bytes) -> list[str]:
    """Answer with the editions that a prompt holds."""
    editions = sorted(set(re.findall(r"edition-\d+", body.decode())))
    return ["From ", *(f"{edition} " for edition in editions)]


async def publish(session: aiohttp.ClientSession, edition: int, n_documents: int) -> float:
    """Replace all documents by the next edition; seconds until it serves."""
    started = time.perf_counter()
    documents = [
        {"id": f"d{n}", "text": f"Report number {n} tells of edition-{edition} and of no other."}
        for n in range(n_documents)
    ]
    async with session.post("/documents", json={"documents": documents}) as response:
        if response.status != 202:
            raise RuntimeError(await response.text())
        path = response.headers["Location"]
    while True:
        async with session.get(path) as response:
            job = (await response.json())["job"]
        if job["finished_at"]:
            return time.perf_counter() - started
        await asyncio.sleep(0.02)


def memory(pid: int) -> tuple[float, int]:
    """(resident MB, mapped files of generations) of the server."""
    status = Path(f"/proc/{pid}/status").read_text()
    resident = re.search(r"VmRSS:\s+(\d+) kB", status)
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    assert resident is not None
    return int(resident.group(1)) / 1024, sum("/generations/" in line for line in maps)


async def measure(url: str, pid: int, swaps: int, n_documents: int) -> None:
    async with aiohttp.ClientSession(url) as session:
        await publish(session, 0, n_documents)
        while True:
            async with session.get("/health/ready") as response:
                if response.status == 200:
                    break
            await asyncio.sleep(0.1)
        load = Load(session)
        await asyncio.sleep(QUIET_S)
        quiet = await load.stop()
        before = memory(pid)
        load = Load(session)
        started = time.perf_counter()
        took, resident = [], []
        for edition in range(1, swaps + 1):
            took.append(await publish(session, edition, n_documents))
            resident.append(memory(pid)[0])
        seconds = time.perf_counter() - started
        busy = await load.stop()
        await asyncio.sleep(2)
        after = memory(pid)
    tenths = " ".join(f"{part.max():.0f}" for part in np.array_split(resident, 10) if len(part))
    rows = [
        ("without swaps", _shown(quiet)),
        (f"{swaps} swaps in {seconds:.0f} s", _shown(busy)),
        (f"a swap of {n_documents} documents",
         f"median {np.median(took):.2f} s, most {max(took):.2f} s"),
        ("resident", f"{before[0]:.0f} MB before, {after[0]:.0f} MB after"),
        ("most in each tenth of the swaps", f"{tenths} MB"),
        ("mapped files of generations", f"{before[1]} before, {after[1]} after"),
    ]  # fmt: skip
    print("\n".join(["| swaps | |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)]))


def _shown(answers: list[Answer]) -> str:
    times_ms = np.array([answer.seconds for answer in answers]) * 1000
    errors = sum(answer.status != 200 for answer in answers)
    mixed = sum(len(answer.editions) != 1 for answer in answers if answer.status == 200)
    p50, p99 = np.percentile(times_ms, [50, 99])
    return (
        f"{len(answers)} answers, {errors} errors, {mixed} of mixed or no generation,"
        f" p50 {p50:.0f} ms, p99 {p99:.0f} ms"
    )


def main() -> None:
    swaps, n_documents = ([int(n) for n in sys.argv[1:]] + [SWAPS, DOCUMENTS][len(sys.argv) - 1 :])[
        :2
    ]
    print_header()
    with (
        tempfile.TemporaryDirectory() as home,
        valkey() as ledger,
        ScriptedEngine(cite) as engine,
        served(
            Path(home) / "index",
            ready=["models", "engine"],
            ENGINE="llamacpp",
            ENGINE_URL=engine.url,
            CB_REDIS_URL=f"unix://{ledger}",
            CB_COST_LIMIT_EUR="1000000",
            INGEST_WINDOW_SECONDS="0.05",
        ) as server,
    ):
        asyncio.run(measure(server.url, server.pid, swaps, n_documents))


if __name__ == "__main__":
    main()
