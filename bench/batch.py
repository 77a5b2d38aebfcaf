"""Eight questions in one POST /batch beside the same eight asked one after another.

python -m bench.batch [URL [KEY]]

With the address of a server: that one, whatever its engine. Without: a scripted engine that takes
all at once, as TGI and vLLM do, and the embedded engine with one, two and four side by side.
"""

import asyncio
import sys
import time
from statistics import median

import aiohttp

from bench.support.engine import ScriptedEngine
from bench.support.processes import valkey
from bench.support.serving import page_index, served
from bench.support.sizes import at_size
from bench.support.tables import Row, print_header, print_rows

QUESTIONS = [
    f"{what} green tea?"
    for what in (
        "How hot is the water for", "How long does one brew", "What takes the sweetness out of",
        "Can leaves be used again for", "What is special about", "How does one prepare",
        "Which temperature suits", "What spoils the taste of",
    )
]  # fmt: skip
TOKENS = 40
ROUNDS = at_size(3, 1)
SIDE_BY_SIDE = at_size(("1", "2", "4"), ())
FRESH = {"Cache-Control": "no-cache, no-store"}


async def one_by_one(session: aiohttp.ClientSession) -> None:
    for question in QUESTIONS:
        async with session.post("/query", json={"query": question, "max_tokens": TOKENS}) as got:
            await got.read()


async def in_one(session: aiohttp.ClientSession) -> None:
    queries = [{"query": question, "max_tokens": TOKENS} for question in QUESTIONS]
    async with session.post("/batch", json={"queries": queries}) as got:
        results = (await got.json())["results"]
    errors = [result["error"] for result in results if result["status"] != 200]
    if errors:
        raise RuntimeError(f"the batch holds errors: {errors[0]}")


async def times(url: str, key: str) -> dict[str, list[float]]:
    headers = FRESH | ({"Authorization": f"Bearer {key}"} if key else {})
    seconds: dict[str, list[float]] = {"batch": [], "one by one": []}
    async with aiohttp.ClientSession(url, headers=headers, raise_for_status=True) as session:
        await in_one(session)
        for _ in range(ROUNDS):
            for how, ask in (("one by one", one_by_one), ("batch", in_one)):
                started = time.perf_counter()
                await ask(session)
                seconds[how].append(time.perf_counter() - started)
    return seconds


def measured(what: str, url: str, key: str = "") -> Row:
    seconds = asyncio.run(times(url, key))
    ours, beside = median(seconds["batch"]), median(seconds["one by one"])
    return {
        "what": f"{len(QUESTIONS)} questions, {what}", "ours": f"{ours:.2f} s",
        "bare": f"one by one {beside:.2f} s", "ratio": f"{ours / beside:.2f}", "goal": "",
    }  # fmt: skip


def own() -> list[Row]:
    with (
        page_index() as index_dir,
        valkey() as ledger,
        ScriptedEngine(lambda _: ["tea "] * TOKENS, every_s=0.02, first_after_s=0.1) as engine,
    ):
        scripted = {"ENGINE": "llamacpp", "ENGINE_URL": engine.url}
        with served(index_dir, CB_REDIS_URL=f"unix://{ledger}", **scripted) as server:
            rows = [measured("an engine that takes all at once", server.url)]
        for parallelism in SIDE_BY_SIDE:
            embedded = {"ENGINE": "embedded", "API_BATCH_PARALLELISM": parallelism}
            with served(index_dir, **embedded) as server:
                rows.append(
                    measured(f"the embedded engine, {parallelism} side by side", server.url)
                )
    return rows


def main() -> None:
    print_header()
    given = sys.argv[1:3]
    print_rows([measured("the server given", *given)] if given else own())


if __name__ == "__main__":
    main()
