"""What the log costs a request, and how long its analytics take over 10k, 100k and 1M rows.

python -m bench.remember [sizes|path]

PostgreSQL from the wheel, fsync off, 64 MB of shared buffers; rows seeded by SQL, over 30 days as
retention keeps them, and once a million over the window's one day. CPU of a request is that
of all threads of a real server that answers exact hits, so that no model hides what the log costs.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from statistics import median
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from api.log import analytics
from api.log import experiment_report as experiments
from api.log import reader as reading
from api.log.analytics import Window
from api.log.database import Database
from api.log.reader import Wanted
from api.telemetry.record import Record
from bench.support.engine import ScriptedEngine
from bench.support.load import ask
from bench.support.postgres import postgres
from bench.support.processes import Process, cpu_s, until, valkey
from bench.support.serving import page_index, served
from bench.support.sizes import at_size
from bench.support.tables import Row, print_header, print_rows, ratio_of

DAYS = 86400.0
SIZES = at_size(
    ((10_000, 30.0), (100_000, 30.0), (1_000_000, 30.0), (1_000_000, 1.0)), ((500, 1.0),)
)
REPEATS = at_size(20, 2)
LOGS = at_size(("off", "sqlite", "postgresql"), ("sqlite",))
N_REQUESTS = at_size(500, 5)
ROUNDS = at_size(7, 1)
SETTLE_S = 0.5
"""Until what was noted is written."""
QUESTION: dict[str, object] = {"query": "How long is green tea brewed?"}

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
    print(f"\n| 24 h window, ms, p50 / p95 of {REPEATS} | {' | '.join(CALLS)} |")
    print(f"|---{'|---' * len(CALLS)}|")
    for n, (rows, days) in enumerate(SIZES):
        for url in (create(f"bench{n}"), f"sqlite:///{folder}/bench{n}"):
            took = asyncio.run(time_calls(url, rows, days))
            name = f"{url.partition(':')[0]}, {rows:,} rows over {days:.0f} days"
            print(f"| {name} | {' | '.join(map(_shown, took.values()))} |", flush=True)


def _shown(ms: list[float]) -> str:
    return f"{median(ms):.0f} / {sorted(ms)[max(0, int(0.95 * len(ms)) - 1)]:.0f}"


def path(urls: dict[str, str], environ: dict[str, str]) -> None:
    """CPU of the server a request with each log in turn."""
    took: dict[str, list[float]] = {name: [] for name in urls}
    with page_index() as index_dir, ExitStack() as stack:
        servers = {
            name: stack.enter_context(served(index_dir, **environ, DATABASE_URL=url))
            for name, url in urls.items()
        }
        for server in servers.values():
            until(lambda at=server.port: ask(at, QUESTION)["cache"]["kind"] == "exact")  # type: ignore[misc]
        for round in range(ROUNDS + 1):  # in turn, so that a slow moment meets all of them
            for name, server in servers.items():
                ms = cpu_ms(server)
                if round:  # the first one warms up
                    took[name].append(ms)
    rows: list[Row] = [
        {"what": f"CPU an exact hit, log {name}", "ours": f"{median(took[name]):.3f} ms",
         "bare": f"{LOGS[0]} {median(took[LOGS[0]]):.3f} ms",
         "ratio": f"{ratio_of(took[name], took[LOGS[0]]):.3f}", "goal": ""}
        for name in urls
    ]  # fmt: skip
    print_rows([*rows, append_row()])


def cpu_ms(server: Process) -> float:
    started = cpu_s(server.pid)
    for _ in range(N_REQUESTS):
        ask(server.port, QUESTION)
    time.sleep(SETTLE_S)
    return (cpu_s(server.pid) - started) / N_REQUESTS * 1000


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


def append_row() -> Row:
    return {"what": "noting an answer, before it is written", "ours": f"{append_us():.2f} us",
            "bare": "", "ratio": "", "goal": ""}  # fmt: skip


def main() -> None:
    wanted = sys.argv[1:] or ["path", "sizes"]
    print_header()
    with postgres() as create, tempfile.TemporaryDirectory() as folder:
        if "path" in wanted:
            urls = {"off": "off", "sqlite": f"sqlite:///{folder}/log", "postgresql": create("path")}
            asyncio.run(_migrate(urls["postgresql"]))
            with (
                ScriptedEngine(lambda _: [" word"] * 80) as engine,
                valkey() as ledger,
                valkey() as cache,
            ):
                environ = {
                    "ENGINE": "llamacpp",
                    "ENGINE_URL": engine.url,
                    "CB_REDIS_URL": f"unix://{ledger}",
                    "CACHE_ENABLED": "true",
                    "CACHE_REDIS_URL": f"unix://{cache}",
                    "CB_COST_LIMIT_EUR": "1000000",
                }
                path({name: urls[name] for name in LOGS}, environ)
        if "sizes" in wanted:
            sizes(create, folder)


async def _migrate(url: str) -> None:
    database = Database(url, "unused")
    await database.migrate()
    await database.close()


if __name__ == "__main__":
    main()
