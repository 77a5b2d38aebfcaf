"""One server under many: 2,000 streams open at a time, and 16 processes that ask and ask.

python -m bench.scale

The server searches, counts in a ledger and against limits; the clients share its cores.
"""

import asyncio
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from statistics import median
from typing import NamedTuple

import uvloop

from api.machine import available_cores
from bench.soak import open_streams
from bench.support.load import Crowd, again_and_again, ask, post, stream, to_server
from bench.support.processes import (
    Process,
    allow_descriptors,
    descriptors,
    module,
    rss_mb,
    until,
    valkey,
)
from bench.support.serving import LIMITED, page_index, served
from bench.support.sizes import at_size
from bench.support.tables import Row, print_header, print_rows

STREAMS = at_size(2_000, 40)
WAVE = 100
"""Streams begun at once: the embedder refuses more than 1,024 that wait."""
TOKENS = 1_000
RATE = 1.0
"""Of each stream, a second."""
WITHIN_S = at_size(300.0, 60.0)
CLIENTS = at_size(16, 2)
SECONDS = at_size(15.0, 1.5)
HIT_BODY = {"query": "How long is green tea brewed in hot water?", "max_tokens": 40}
HIT = post("/query", HIT_BODY, keep=True)


class Opened(NamedTuple):
    resident_mb: float
    descriptors: int
    seconds: float
    alive: int
    """Streams that got a token in the last three seconds."""


async def hold_open(server: Process) -> Opened:
    """Open the streams wave by wave, look at the server, then leave all of them."""
    crowds = [Crowd(1) for _ in range(STREAMS)]
    tasks: list[asyncio.Task[object]] = []
    started = time.perf_counter()
    for first in range(0, STREAMS, WAVE):
        wave = crowds[first : first + WAVE]
        for crowd in wave:
            request = to_server(server.port, TOKENS, RATE)
            tasks.append(asyncio.create_task(stream(request, crowd)))
        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(*(crowd.begun.wait() for crowd in wave))
    seconds = time.perf_counter() - started
    before = [crowd.tokens for crowd in crowds]
    await asyncio.sleep(3 / RATE)
    alive = sum(crowd.tokens > had for crowd, had in zip(crowds, before, strict=True))
    opened = Opened(rss_mb(server.pid), descriptors(server.pid), seconds, alive)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return opened


def stream_rows(server: Process) -> list[Row]:
    resident, held = rss_mb(server.pid), descriptors(server.pid)
    opened = uvloop.run(hold_open(server))
    until(lambda: open_streams(server) == 0, within_s=30)
    time.sleep(2.0)
    left = descriptors(server.pid) - held
    each_kb = (opened.resident_mb - resident) / STREAMS * 1000
    each = (opened.descriptors - held) / STREAMS
    return [
        {"what": f"{STREAMS} streams open, {RATE:.0f} token/s each", "ours": f"{opened.alive}",
         "bare": f"begun in {opened.seconds:.0f} s", "ratio": "", "goal": f"{STREAMS}"},
        {"what": "memory of one of them", "ours": f"{each_kb:.0f} KB",
         "bare": f"{resident:.0f} MB before, {opened.resident_mb:.0f} MB with all",
         "ratio": "", "goal": ""},
        {"what": "descriptors of one of them", "ours": f"{each:.2f}",
         "bare": f"{held} before, {opened.descriptors} with all", "ratio": "", "goal": "2"},
        {"what": "left open once the clients are gone", "ours": f"0 streams, {left} descriptors",
         "bare": f"{rss_mb(server.pid):.0f} MB", "ratio": "", "goal": "0"},
    ]  # fmt: skip


def first_tokens(port: int, number: int) -> list[float]:
    """One client: seconds to each first token, one stream of two tokens after another."""
    end = time.perf_counter() + SECONDS

    async def run() -> list[float]:
        firsts: list[float] = []
        while time.perf_counter() < end:
            question = f"How long is tea {number} of {len(firsts)} brewed?"
            request = to_server(port, 2, 1000, question=question)
            firsts.append((await stream(request)).first_s)
        return firsts

    return uvloop.run(run())


def keep_answer(server: Process) -> None:
    """Ask until the cache answers."""
    until(lambda: ask(server.port, HIT_BODY)["cache"]["kind"] == "exact")


def exact_hits(port: int, number: int) -> list[float]:
    """One client: seconds of each exact hit, one after another over one connection."""
    hits = again_and_again(port, repeat(HIT), seconds=SECONDS, connections=1)
    return uvloop.run(hits)


def client_rows(server: Process) -> list[Row]:
    rows: list[Row] = []
    keep_answer(server)
    with ProcessPoolExecutor(CLIENTS, mp_context=get_context("spawn")) as clients:
        list(clients.map(abs, range(CLIENTS)))  # all of them have started
        for what, client in (("first tokens", first_tokens), ("exact hits", exact_hits)):
            started = time.perf_counter()
            ports = [server.port] * CLIENTS
            spent = sorted(sum(clients.map(client, ports, range(CLIENTS)), []))
            rate = len(spent) / (time.perf_counter() - started)
            p99 = spent[int(0.99 * len(spent))]
            rows.append(
                {"what": f"{what}, {CLIENTS} client processes, {available_cores()} cores",
                 "ours": f"{rate:.0f} requests/s",
                 "bare": f"p50 {median(spent) * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms",
                 "ratio": "", "goal": ""}
            )  # fmt: skip
    return rows


def rows() -> list[Row]:
    allow_descriptors(2 * STREAMS + 1_000)
    with (
        page_index() as index_dir,
        valkey() as ledger,
        valkey() as cache,
        module("bench.support.paced_engine") as engine,
        served(
            index_dir, ENGINE="tgi", ENGINE_URL=engine.url, CB_REDIS_URL=f"unix://{ledger}",
            CACHE_ENABLED="true", CACHE_REDIS_URL=f"unix://{cache}",
            API_DEADLINE_SECONDS="1800", **LIMITED,
        ) as server,
    ):  # fmt: skip
        return [*stream_rows(server), *client_rows(server)]


def main() -> None:
    print_header()
    print_rows(rows())


if __name__ == "__main__":
    main()
