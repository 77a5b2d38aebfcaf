"""What a cache hit costs end to end: requests a second beside a bare Litestar JSON route.

python -m bench.hits

Limits and ledger on, no key, no log; a second server notes each answer in SQLite. Each in a process
of its own under uvicorn with one worker; the bare route decodes the same body into the same struct
and returns an answer of the same size. Redis is a real Valkey.
"""

import asyncio
import sys
import time
from contextlib import ExitStack
from itertools import repeat
from statistics import median

import uvloop

from bench.support.engine import ScriptedEngine
from bench.support.load import again_and_again, ask, post
from bench.support.processes import module, until, valkey
from bench.support.serving import LIMITED, page_index, served
from bench.support.sizes import at_size
from bench.support.tables import Row, print_header, print_rows, ratio_of

N_CONNECTIONS = 8
SECONDS = at_size(3.0, 0.5)
ROUNDS = at_size(5, 1)
SERVERS = at_size(("ours", "logged"), ("ours",))
N_ASKED = at_size(100, 5)
QUESTION: dict[str, object] = {"query": "How long is green tea brewed in hot water?"}
PARAPHRASE: dict[str, object] = {"query": "How long is green tea brewed in the hot water?"}
ANSWER = (
    "Green tea is brewed with water of eighty degrees for two minutes. [1] Hotter water takes the "
    "sweetness out of it and leaves what is bitter, which the page does not say. If the leaves are "
    "used again they want half a minute more."
).replace(" ", "  ")


def bare(port: int) -> None:
    """A route that does nothing but what every JSON route must."""
    import uvicorn
    from litestar import Litestar, post
    from litestar.params import JSONBody

    from api.http.schemas import QueryRequest

    answer: dict[str, object] = {"answer": "x" * 1500, "sources": [], "cache": {"kind": "none"}}

    @post("/query", status_code=200)
    async def post_query(data: JSONBody[QueryRequest]) -> dict[str, object]:
        return answer

    app = Litestar([post_query], openapi_config=None)
    uvicorn.run(app, port=port, log_level="error", access_log=False, ws="none")


def rows() -> list[Row]:
    encoding_ms = embed_alone_ms()
    with (
        page_index() as index_dir,
        ScriptedEngine(lambda _: ANSWER.split(" ")) as engine,
        valkey() as cache,
        valkey() as ledger,
    ):
        environ = LIMITED | {
            "ENGINE": "tgi",
            "ENGINE_URL": engine.url,
            "CACHE_ENABLED": "true",
            "CACHE_REDIS_URL": f"unix://{cache}",
            "CB_REDIS_URL": f"unix://{ledger}",
        }
        urls = {"ours": "off", "logged": f"sqlite:///{cache}.sqlite"}
        with ExitStack() as stack:
            ports = {"bare": stack.enter_context(module("bench.hits")).port}
            for role in SERVERS:
                server = served(index_dir, **environ, DATABASE_URL=urls[role])
                ports[role] = stack.enter_context(server).port
            return measure(ports, encoding_ms)


def measure(ports: dict[str, int], encoding_ms: float) -> list[Row]:
    for role in SERVERS:
        until(lambda port=ports[role]: kind(port, QUESTION) == "exact")  # type: ignore[misc]
    until(lambda: kind(ports["ours"], PARAPHRASE) == "semantic")
    request = post("/query", QUESTION, keep=True)
    rates: dict[str, list[float]] = {role: [] for role in ports}
    for _ in range(ROUNDS):
        for role, port in ports.items():
            asking = again_and_again(
                port, repeat(request), seconds=SECONDS, connections=N_CONNECTIONS
            )
            rates[role].append(len(uvloop.run(asking)) / SECONDS)
    ours, beside = median(rates["ours"]), median(rates["bare"])
    semantic_ms, bare_ms = (asked_ms(ports[role]) for role in ("ours", "bare"))
    beyond = semantic_ms - bare_ms - encoding_ms
    noted: list[Row] = [
        {"what": "the same, noted in SQLite", "ours": f"{median(rates[role]):.0f}",
         "bare": f"without the log {ours:.0f}",
         "ratio": f"{ratio_of(rates[role], rates['ours']):.2f}", "goal": ""}
        for role in SERVERS[1:]
    ]  # fmt: skip
    return [
        {"what": "exact hits, requests/s", "ours": f"{ours:.0f}",
         "bare": f"bare JSON route {beside:.0f}",
         "ratio": f"{ratio_of(rates['ours'], rates['bare']):.2f}", "goal": "≥ 0.60"},
        *noted,
        {"what": "semantic hit beyond embedding and a bare route", "ours": f"{beyond:.1f} ms",
         "bare": f"embedding {encoding_ms:.1f} ms, route {bare_ms:.1f} ms", "ratio": "",
         "goal": "≤ 2 ms"},
    ]  # fmt: skip


def kind(port: int, body: dict[str, object]) -> str:
    return str(ask(port, body)["cache"]["kind"])


def asked_ms(port: int) -> float:
    """The paraphrase, over connections of its own, one after another."""
    started = time.perf_counter()
    for _ in range(N_ASKED):
        ask(port, PARAPHRASE)
    return (time.perf_counter() - started) / N_ASKED * 1000


def embed_alone_ms() -> float:
    from retrieval.models.embedder import load_embedder
    from retrieval.models.resolve import MINILM

    embedder = load_embedder(MINILM, threads=1)
    spent = []
    for _ in range(N_ASKED):
        started = time.perf_counter()
        asyncio.run(embedder.embed(str(PARAPHRASE["query"])))
        spent.append((time.perf_counter() - started) * 1000)
    embedder.close()
    return median(spent)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        bare(int(sys.argv[1]))
    else:
        print_header()
        print_rows(rows())
