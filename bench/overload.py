"""Three times the questions that the engine takes: what is answered, how fast the rest hear so.

python -m bench.overload

A scripted engine takes half a second for an answer; eight answers at a time, sixteen may wait.
The peak is what eight clients get that ask again as soon as they are answered.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import aiohttp

from bench.support.engine import ScriptedEngine
from bench.support.processes import valkey
from bench.support.serving import page_index, served
from bench.support.sizes import at_size
from bench.support.tables import print_header, print_rows

QUESTION = {"query": "How long is green tea brewed?"}
PLACES = 8
WAITING = 16
ANSWER_S = 0.5
SECONDS = at_size(8.0, 2.0)
TIMES = 3

Ended = tuple[float, int, float]
"""When, of the event loop; status; seconds it took."""


async def ask(session: aiohttp.ClientSession, url: str, ended: list[Ended]) -> None:
    started = time.monotonic()
    async with session.post(url, json=QUESTION) as response:
        await response.read()
    now = time.monotonic()
    ended.append((now, response.status, now - started))


async def peak(url: str) -> float:
    """Return the answers a second that so many clients get as there are places."""
    ended: list[Ended] = []
    async with aiohttp.ClientSession() as session:

        async def again_and_again() -> None:
            while time.monotonic() < end:
                await ask(session, url, ended)

        end = time.monotonic() + SECONDS
        await asyncio.gather(*(again_and_again() for _ in range(PLACES)))
    return rate(ended)


async def overloaded(url: str, a_second: float) -> list[Ended]:
    """Ask so often, whether or not there are answers."""
    ended: list[Ended] = []
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
        started = time.monotonic()
        for n in range(int(SECONDS * a_second)):
            await asyncio.sleep(max(0.0, started + n / a_second - time.monotonic()))
            group.create_task(ask(session, url, ended))
    return ended


def rate(ended: list[Ended]) -> float:
    """Return the good answers a second, from the first one's end to the last one's."""
    good = sorted(at for at, status, _ in ended if status == 200)
    return (len(good) - 1) / (good[-1] - good[0])


@contextmanager
def server() -> Iterator[str]:
    with (
        page_index() as index_dir,
        valkey() as ledger,
        ScriptedEngine(lambda _: ["Two minutes."], first_after_s=ANSWER_S) as engine,
        served(
            index_dir,
            ENGINE="llamacpp",
            ENGINE_URL=engine.url,
            CB_REDIS_URL=f"unix://{ledger}",
            CB_COST_LIMIT_EUR="1000",
            ENGINE_MAX_CONCURRENT=str(PLACES),
            ENGINE_QUEUE=str(WAITING),
        ) as process,
    ):
        yield f"{process.url}/query"


def main() -> None:
    print_header()
    with server() as url:
        best = asyncio.run(peak(url))
        ended = asyncio.run(overloaded(url, TIMES * best))
    good = rate(ended)
    refused = sorted(took * 1000 for _, status, took in ended if status == 429)
    others = [status for _, status, _ in ended if status not in (200, 429)]
    p95 = refused[int(0.95 * len(refused))]
    print_rows(
        [
            {"what": f"answers/s at {TIMES} times the load", "ours": f"{good:.1f}",
             "bare": f"peak {best:.1f}", "ratio": f"{good / best:.2f}", "goal": "≥ 0.90"},
            {"what": "told that it is too much", "ours": f"{median(refused):.0f} ms",
             "bare": f"p95 {p95:.0f} ms", "ratio": "", "goal": ""},
            {"what": "anything else", "ours": str(len(others)), "bare": "", "ratio": "",
             "goal": "0"},
        ]
    )  # fmt: skip


if __name__ == "__main__":
    main()
