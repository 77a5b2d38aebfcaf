"""What the log costs a request, and how long its analytics take over 10k, 100k and 1M rows.

python -m bench.remember [sizes|path]

PostgreSQL from the wheel, fsync off, 64 MB of shared buffers; rows seeded by SQL, over 30 days as
retention keeps them, and once a million over the window's one day. CPU of the request path is that
of the event loop's thread, which converts rows as well; engine and database run elsewhere.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from api.app import create_app
from api.http.edge import Edge
from api.log import analytics
from api.log import experiment_report as experiments
from api.log import reader as reading
from api.log.analytics import Window
from api.log.database import Database
from api.log.reader import Wanted
from api.settings.env import Settings
from api.telemetry.record import Record
from bench.support.engine import ScriptedEngine
from bench.support.postgres import postgres
from bench.support.processes import valkey
from bench.support.serving import index_page

DAYS = 86400.0
SIZES = ((10_000, 30.0), (100_000, 30.0), (1_000_000, 30.0), (1_000_000, 1.0))
REPEATS = 20
N_REQUESTS = 150
ROUNDS = 7
BODY = b'{"query": "What is the capital of France?"}'

SEED = """
WITH RECURSIVE numbers(n) AS (
  SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < CAST(:rows AS INTEGER)
), seeds AS (
  SELECT n, CAST(:now AS DOUBLE PRECISION) - n * CAST(:step AS DOUBLE PRECISION) AS at FROM numbers
)
INSERT INTO answers
SELECT CAST(at * 1000000 AS BIGINT) * 2048 + n % 2048, at, 'r' || n, 'tenant' || n % 20,
       'k' || n % 50, '/query', CASE WHEN n % 50 = 0 THEN 'engine_error' ELSE 'ok' END,
       CASE WHEN n % 50 = 0 THEN 'engine_down' ELSE '' END, n % 33 = 0, 'vllm', 'model' || n % 3,
       'p1', 'e', CASE WHEN n % 2 = 0 THEN 'a' ELSE 'b' END, 'g1',
       CASE WHEN n % 4 = 0 THEN 'exact' ELSE 'none' END,
       200 + (n * CAST(7919 AS BIGINT) % 5000), 50 + (n * CAST(104729 AS BIGINT) % 900),
       '{"total": 300.0}', 900, 80, 0.0005, '["a:0", "b:1", "c:2"]', 'question ' || n % 5000,
       'An answer of some words [1].'
FROM seeds
"""
CALLS: dict[str, Callable[[AsyncConnection, Window], Awaitable[Any]]] = {
    "summary": analytics.summary,
    "savings": analytics.savings,
    "engines": analytics.engines,
    "queries": lambda connection, window: reading.newest(connection, window, Wanted(), 50),
    "queries, unanswered": lambda connection, window: reading.newest(
        connection, window, Wanted(unanswered=True), 50
    ),
    "experiment": lambda connection, window: experiments.report(connection, window, "e"),
    "questions": lambda connection, window: reading.failing(connection, window, limit=50, offset=0),
}


async def time_calls(url: str, rows: int, days: float) -> dict[str, list[float]]:
    database = Database(url, "unused")
    await database.migrate()
    now = time.time()
    values = {"now": now, "rows": rows, "step": days * DAYS / rows}
    await database.run(lambda connection: connection.execute(text(SEED), values), within_s=500.0)
    await database.run(lambda connection: connection.execute(text("ANALYZE")), within_s=60.0)
    took: dict[str, list[float]] = {}
    window = Window(since=now - DAYS)
    for name, call in CALLS.items():

        def measured(connection: AsyncConnection, call: Any = call) -> Awaitable[Any]:
            return call(connection, window)

        for _ in range(REPEATS):
            started = time.perf_counter()
            await database.run(measured, within_s=60)
            took.setdefault(name, []).append((time.perf_counter() - started) * 1000)
    await database.close()
    return took


def sizes(create: Callable[[str], str], folder: str) -> None:
    print("24 h window, ms, p50 / p95 of", REPEATS)
    for n, (rows, days) in enumerate(SIZES):
        for url in (create(f"bench{n}"), f"sqlite:///{folder}/bench{n}"):
            _show(url.partition(":")[0], rows, days, asyncio.run(time_calls(url, rows, days)))


def _show(name: str, rows: int, days: float, took: dict[str, list[float]]) -> None:
    shown = ", ".join(
        f"{name} {median(ms):.0f} / {sorted(ms)[int(0.95 * len(ms)) - 1]:.0f}"
        for name, ms in took.items()
    )
    print(f"{name}, {rows:,} rows over {days:.0f} days: {shown}", flush=True)


async def ask(app: Edge) -> None:
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "path": "/query", "raw_path": b"/query", "query_string": b"", "root_path": "",
        "scheme": "http", "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1),
        "headers": [(b"content-type", b"application/json")],
    }  # fmt: skip
    given = [{"type": "http.request", "body": BODY, "more_body": False}]

    async def receive() -> Any:
        if given:
            return given.pop()
        await asyncio.get_running_loop().create_future()

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200, message

    await app(scope, receive, send)  # type: ignore[arg-type]


async def cpu_ms(app: Edge) -> float:
    started = time.thread_time()
    for _ in range(N_REQUESTS):
        await ask(app)
    if app.service.log is not None:
        while app.service.log.writer.n_waiting:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return (time.thread_time() - started) / N_REQUESTS * 1000


async def path(urls: dict[str, str], environ: dict[str, str]) -> None:
    apps = {
        name: create_app(Settings.from_env(environ | {"DATABASE_URL": url}))
        for name, url in urls.items()
    }
    took: dict[str, list[float]] = {name: [] for name in apps}
    for _ in range(ROUNDS):  # one after the other, so that a slow moment meets all of them
        for name, app in apps.items():
            app = apps[name] = create_app(app.service.settings)
            async with app.service.run():
                await app.service.until_answering()
                await ask(app)
                took[name].append(await cpu_ms(app))
    off = median(took["off"])
    for name, ms in took.items():
        print(f"log {name}: {median(ms):.3f} ms of CPU a request, {median(ms) / off:.3f} of off")


def append_us() -> float:
    from api.admission.caller import PUBLIC
    from api.log.query_log import QueryLog
    from api.settings.log import DatabaseSettings

    log = QueryLog(Database("", "/nonexistent"), DatabaseSettings())
    record = Record(
        request_id="r1", started=time.monotonic(), endpoint="/query", engine="tgi", model="m",
        answers=True, status=200, prompt_version="p1", generation="g1",
        passage_ids=["a:0", "b:1"], cost_eur=0.001, prompt_tokens=100, completion_tokens=10,
        stages_ms={"first_token": 50.0, "total": 100.0},
    )  # fmt: skip
    started = time.thread_time()
    for _ in range(100_000):
        log.note(record, PUBLIC)
    return (time.thread_time() - started) * 10


def main() -> None:
    wanted = sys.argv[1:] or ["path", "sizes"]
    with postgres() as create, tempfile.TemporaryDirectory() as folder:
        if "path" in wanted:
            print(f"append: {append_us():.2f} us")
            index_dir = Path(folder) / "index"
            index_page(index_dir, "# France\n\nParis is the capital of France.")
            url = create("path")
            asyncio.run(_migrate(url))
            urls = {"off": "off", "sqlite": f"sqlite:///{folder}/log", "postgresql": url}
            with ScriptedEngine(lambda _: [" word"] * 80) as engine, valkey() as socket:
                environ = {
                    "ENGINE": "llamacpp",
                    "ENGINE_URL": engine.url,
                    "RETRIEVAL_INDEX_DIR": str(index_dir),
                    "CB_REDIS_URL": f"unix://{socket}",
                    "CACHE_ENABLED": "false",
                    "LIMIT_ENABLED": "false",
                }
                asyncio.run(path(urls, environ))
        if "sizes" in wanted:
            sizes(create, folder)


async def _migrate(url: str) -> None:
    database = Database(url, "unused")
    await database.migrate()
    await database.close()


if __name__ == "__main__":
    main()
