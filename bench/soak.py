"""10,000 streams through one server, half of them left by the client: what stays behind.

python -m bench.soak
"""

import asyncio
import time
from urllib.request import urlopen

import uvloop

from bench.support.load import stream, to_server
from bench.support.processes import Process, descriptors, module, rss_mb, valkey
from bench.support.serving import LIMITED, page_index, served
from bench.support.sizes import at_size
from bench.support.tables import Row, print_header, print_rows

STREAMS = at_size(10_000, 60)
PART = at_size(1_000, 30)
AT_ONCE = at_size(64, 8)
TOKENS = 20
RATE = 400.0


async def part(server: Process) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(n: int) -> None:
        async with gate:
            request = to_server(server.port, TOKENS, RATE)
            await stream(request, leave_after=5 if n % 2 else None)

    await asyncio.gather(*(one(n) for n in range(PART)))
    await asyncio.sleep(0.5)


def open_streams(server: Process) -> float:
    with urlopen(f"{server.url}/metrics") as response:
        lines = response.read().decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("rag_open_streams"))


def rows() -> list[Row]:
    with (
        page_index() as index_dir,
        valkey() as ledger,
        module("bench.support.paced_engine") as engine,
        served(
            index_dir, ENGINE="tgi", ENGINE_URL=engine.url, CB_REDIS_URL=f"unix://{ledger}",
            **LIMITED,
        ) as server,
    ):  # fmt: skip
        resident = []
        uvloop.run(part(server))
        before = descriptors(server.pid)
        for _ in range(0, STREAMS, PART):
            uvloop.run(part(server))
            resident.append(rss_mb(server.pid))
        time.sleep(1.0)
        left, left_open = descriptors(server.pid) - before, open_streams(server)
    growth = resident[-1] - resident[0]
    return [
        {"what": f"RSS growth after the first {PART} of {STREAMS} streams",
         "ours": f"{growth:.1f} MB", "bare": f"{resident[0]:.0f} MB at {PART}",
         "ratio": f"{resident[-1] / resident[0]:.3f}", "goal": "< 5 MB"},
        {"what": "left open after them", "ours": f"{left_open:.0f} streams, {left} descriptors",
         "bare": "", "ratio": "", "goal": "0"},
    ]  # fmt: skip


def main() -> None:
    print_header()
    print_rows(rows())


if __name__ == "__main__":
    main()
