"""What relaying costs: ragrelay beside a bare byte pipe and beside the engine itself, one run.

python -m bench.relay

The server searches, counts every answer in a ledger (a real Valkey) and against limits; a second
one caches answers besides. A paced engine, the pipe (aiohttp → uvicorn, bytes as they come), the
servers and the load are processes of their own; CPU time is that of the relaying process alone.
"""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from statistics import median
from time import perf_counter
from typing import NamedTuple

import uvloop

from bench.support.load import Crowd, Request, new_question, stream, to_engine, to_server
from bench.support.processes import Process, cpu_s, module, valkey
from bench.support.serving import LIMITED, page_index, served
from bench.support.sizes import at_size
from bench.support.tables import Row, print_header, print_rows, ratio_of

ROUNDS = at_size(5, 1)
STREAMS = 16
RATE = 50.0
WATCHED_S = at_size(4.0, 1.0)
REQUESTS = at_size(100, 5)
BURST = at_size(128, 16)
BURST_TOKENS = at_size(120, 30)
BURST_RATE = 30.0
BURST_ROUNDS = at_size(3, 1)
SERVERS = ("ragrelay", "cached")


class Burst(NamedTuple):
    tokens: int
    seconds: float
    rate_together: float
    """Tokens a second while all streams ran."""


class Alone(NamedTuple):
    """Seconds that embedding takes where nothing else runs."""

    one: float
    burst: float
    """Of BURST questions that come at once."""


def request(role: str, process: Process, tokens: int, rate: float) -> Request:
    ask = to_server if role in SERVERS else to_engine
    return ask(process.port, tokens, rate)


async def relaying_cpu_s(role: str, process: Process) -> float:
    """CPU a token while the streams run, their beginnings and ends left out."""
    tokens = int((WATCHED_S + 2) * RATE)
    asked = [request(role, process, tokens, RATE) for _ in range(STREAMS)]
    crowd = Crowd(STREAMS)
    streams = [asyncio.create_task(stream(each, crowd)) for each in asked]
    await asyncio.sleep(1)
    before, cpu = crowd.tokens, cpu_s(process.pid)
    await asyncio.sleep(WATCHED_S)
    cost = (cpu_s(process.pid) - cpu) / (crowd.tokens - before)
    await asyncio.gather(*streams)
    return cost


async def request_cpu_s(role: str, process: Process) -> float:
    """CPU a request with one token, one after another."""
    before = cpu_s(process.pid)
    for _ in range(REQUESTS):
        await stream(request(role, process, 1, 1000))
    return (cpu_s(process.pid) - before) / REQUESTS


async def first_token_s(role: str, process: Process) -> float:
    """Seconds to the first token of one stream after another, the median, while others run."""
    others = [
        asyncio.create_task(stream(request(role, process, 1000, RATE))) for _ in range(STREAMS)
    ]
    await asyncio.sleep(1)
    firsts = [(await stream(request(role, process, 1, 1000))).first_s for _ in range(REQUESTS)]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return median(firsts)


async def burst(role: str, process: Process) -> Burst:
    crowd = Crowd(BURST)
    asked = [request(role, process, BURST_TOKENS, BURST_RATE) for _ in range(BURST)]
    started = perf_counter()
    await asyncio.gather(*(stream(each, crowd) for each in asked))
    return Burst(crowd.tokens, perf_counter() - started, crowd.rate())


def embed_alone() -> Alone:
    """As the server embeds: the same model, threads and batches."""
    from api.machine import available_cores, model_threads
    from retrieval.models.embedder import load_embedder
    from retrieval.models.resolve import MINILM

    embedder = load_embedder(MINILM, threads=model_threads(available_cores()))

    async def seconds_of(n: int) -> float:
        questions = [new_question() for _ in range(n)]
        started = perf_counter()
        await asyncio.gather(*map(embedder.embed, questions))
        return perf_counter() - started

    async def measure() -> Alone:
        one = [await seconds_of(1) for _ in range(REQUESTS)]
        return Alone(median(one), median([await seconds_of(BURST) for _ in range(BURST_ROUNDS)]))

    alone = asyncio.run(measure())
    embedder.close()
    return alone


@contextmanager
def processes() -> Iterator[dict[str, Process]]:
    with (
        page_index() as index_dir,
        valkey() as ledger,
        valkey() as cache,
        module("bench.support.paced_engine") as engine,
        module("bench.support.pipe", engine.url) as pipe,
    ):
        environ = LIMITED | {
            "ENGINE": "tgi", "ENGINE_URL": engine.url, "CB_REDIS_URL": f"unix://{ledger}",
        }  # fmt: skip
        caching = environ | {"CACHE_ENABLED": "true", "CACHE_REDIS_URL": f"unix://{cache}"}
        with served(index_dir, **environ) as ours, served(index_dir, **caching) as cached:
            yield {"engine": engine, "pipe": pipe, "ragrelay": ours, "cached": cached}


def rows() -> list[Row]:
    relays = ("pipe", *SERVERS)
    cost: dict[str, list[float]] = {role: [] for role in relays}
    start: dict[str, list[float]] = {role: [] for role in relays}
    bursts: dict[str, list[Burst]] = {"engine": [], "pipe": [], "ragrelay": []}
    with processes() as of:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
            alone = other.submit(embed_alone).result()
        for role in relays:  # warm
            uvloop.run(request_cpu_s(role, of[role]))
        for _ in range(ROUNDS):
            for role in relays:
                cost[role].append(uvloop.run(relaying_cpu_s(role, of[role])) * 1e6)
                start[role].append(uvloop.run(request_cpu_s(role, of[role])) * 1e3)
        first = {role: uvloop.run(first_token_s(role, of[role])) * 1e3 for role in bursts}
        for _ in range(BURST_ROUNDS):
            for role in bursts:
                bursts[role].append(uvloop.run(burst(role, of[role])))
    pipes = f"byte pipe {median(cost['pipe']):.0f} µs"
    return [
        {"what": f"CPU a relayed token, {STREAMS} streams × {RATE:.0f}/s, search, ledger, limits",
         "ours": f"{median(cost['ragrelay']):.0f} µs", "bare": pipes,
         "ratio": f"{ratio_of(cost['ragrelay'], cost['pipe']):.2f}", "goal": "≤ 1.5"},
        {"what": "the same with the answer cache on", "ours": f"{median(cost['cached']):.0f} µs",
         "bare": pipes, "ratio": f"{ratio_of(cost['cached'], cost['pipe']):.2f}", "goal": "≤ 1.8"},
        {"what": "CPU a request with one token, its embedding included",
         "ours": f"{median(start['ragrelay']):.1f} ms",
         "bare": f"byte pipe {median(start['pipe']):.1f} ms",
         "ratio": f"{ratio_of(start['ragrelay'], start['pipe']):.2f}", "goal": ""},
        *first_rows(first, alone), *burst_rows(bursts, alone),
    ]  # fmt: skip


def first_rows(first: dict[str, float], alone: Alone) -> list[Row]:
    """`first`: milliseconds to a first token."""
    embedding = alone.one * 1e3
    added = first["ragrelay"] - first["engine"]
    added_by_pipe = first["pipe"] - first["engine"]
    return [
        {"what": f"added to a first token, {STREAMS} streams open", "ours": f"{added:.1f} ms",
         "bare": f"embedding {embedding:.1f} ms, byte pipe adds {added_by_pipe:.1f} ms",
         "ratio": f"embedding {added - embedding:+.1f} ms", "goal": "≤ embedding + 4 ms"},
    ]  # fmt: skip


def burst_rows(bursts: dict[str, list[Burst]], alone: Alone) -> list[Row]:
    """The whole of a burst holds its search; what runs while all stream does not."""
    seconds = {role: [each.seconds for each in of_role] for role, of_role in bursts.items()}
    together = {role: [each.rate_together for each in of_role] for role, of_role in bursts.items()}
    tokens = BURST * BURST_TOKENS
    ours, direct = median(seconds["ragrelay"]), median(seconds["engine"])
    least = [each + alone.burst for each in seconds["engine"]]
    of_direct = ratio_of(seconds["engine"], seconds["ragrelay"])
    of_least = ratio_of(least, seconds["ragrelay"])
    what = f"tokens/s, {BURST} streams × {BURST_RATE:.0f}/s begun at once"
    return [
        {"what": f"{what}, while all stream: no search",
         "ours": f"{median(together['ragrelay']):.0f}",
         "bare": f"engine direct {median(together['engine']):.0f}, "
                 f"byte pipe {median(together['pipe']):.0f}",
         "ratio": f"{ratio_of(together['ragrelay'], together['engine']):.3f}", "goal": "≥ 0.95"},
        {"what": f"{what}, from the first question to the last token",
         "ours": f"{tokens / ours:.0f}", "bare": f"engine direct {tokens / direct:.0f}",
         "ratio": f"{of_direct:.3f}", "goal": ""},
        {"what": f"its seconds beside direct + embedding {BURST} questions",
         "ours": f"{ours:.2f} s", "bare": f"{direct:.2f} + {alone.burst:.2f} s",
         "ratio": f"{of_least:.3f}", "goal": "≥ 0.90"},
    ]  # fmt: skip


def main() -> None:
    print_header()
    print_rows(rows())


if __name__ == "__main__":
    main()
