"""Clients that stream answers while documents change, and what the server holds meanwhile."""

import asyncio
import json
import re
import time
from pathlib import Path

import aiohttp
import msgspec

from tests.support.engine import Exchange, saying
from tests.support.harness import frames, text_of

CLIENTS = 16
DOCUMENTS = 200
PAUSE_S = 0.1
"""Between two questions of a client: its server shares two cores with it."""


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
    stream = frames(raw)
    if stream[-1].event != "done":
        return Answer(0, frozenset(), seconds)
    told = json.dumps(stream[0].data) + text_of(stream)
    return Answer(status, frozenset(re.findall(r"edition-\d+", told)), seconds)


async def cite(exchange: Exchange) -> None:
    editions = sorted(set(re.findall(r"edition-\d+", exchange.call.body.decode())))
    await saying(["From ", *(f"{edition} " for edition in editions)])(exchange)


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
