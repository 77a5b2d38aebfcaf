"""Servers whose log holds answers from before they started."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from api.log.database import Database
from api.log.rows import Noted, judged
from api.settings.types import Secret
from tests.log.rows import ACME, answered, write
from tests.support.engine import FakeEngine
from tests.support.harness import Client, live, settings_for

HOUR_S = 3600.0
HOSTILE = "<img src=x onerror='window.hit=1'><script>window.hit=1</script>"


@contextmanager
def logged(
    file: Path,
    engine: FakeEngine,
    index_dir: Path,
    rows: Sequence[Noted] = (),
    *,
    text: str = "on",
    **groups: Any,
) -> Iterator[Client]:
    url = f"sqlite:///{file}"
    if rows:
        asyncio.run(_kept(url, rows))
    database = {"database_url": Secret(url), "log_text": text}
    settings = settings_for(engine.url, index_dir, database=database, **groups)
    with live(settings) as (client, _):
        yield client


async def _kept(url: str, rows: Sequence[Noted]) -> None:
    database = Database(url, "")
    try:
        await write(database, *rows)
    finally:
        await database.close()


def mixed() -> list[Noted]:
    """An hour of all that happens, answers of a day before, and an experiment of two variants."""
    rows: list[Noted] = [
        answered(f"e{n}", caller=ACME, ms=400.0 + 100 * n, ago_s=60.0 + n,
                 model="org/model-a", question=f"Plain {n}?", answer="So it is.",
                 experiment="shorter", variant="ab"[n % 2])
        for n in range(12)
    ]  # fmt: skip
    rows += [
        answered(f"c{n}", ms=5.0, cache="exact", cost_eur=0.0, question="Plain 1?", answer="So.")
        for n in range(6)
    ]
    rows += [
        answered("f1", outcome="engine_error", error="engine_down", question=HOSTILE, answer=""),
        answered("f2", outcome="client_gone", question="Gone?", answer=""),
        answered("u1", passage_ids=[], question="Nowhere?", answer="", engine=""),
        *[answered(f"d{n}", ago_s=20 * HOUR_S + n, ms=2000.0) for n in range(20)],
    ]
    said = [(f"e{n}", "up" if n < 5 else "down") for n in range(8)]
    rows += [judged(ACME, id, rating, keeps_text=False) for id, rating in said]
    return rows
