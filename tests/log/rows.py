"""Answers as the log gets them."""

import time
from typing import Any

import msgspec

from api.admission.caller import PUBLIC, Caller
from api.log.database import Database
from api.log.rows import Ended, Noted
from api.log.writer import Writer
from api.telemetry.record import Record

ACME = msgspec.structs.replace(PUBLIC, tenant="acme", key_id="k1")
NOW = time.time()


def answered(
    request_id: str = "r1",
    *,
    caller: Caller = PUBLIC,
    ago_s: float = 60.0,
    ms: float = 100.0,
    **fields: Any,
) -> Ended:
    """An engine's answer of late; fields are those of its record."""
    given = {
        "endpoint": "/query", "engine": "tgi", "model": "m", "answers": True, "status": 200,
        "prompt_version": "p1", "generation": "g1", "passage_ids": ["a:0", "b:1"],
        "cost_eur": 0.001, "prompt_tokens": 100, "completion_tokens": 10,
        "stages_ms": {"first_token": ms / 2, "total": ms},
    }  # fmt: skip
    record = Record(request_id=request_id, started=time.monotonic(), **{**given, **fields})
    return Ended(int((NOW - ago_s) * 1e9), ms, record, caller)


async def write(database: Database, *rows: Noted) -> Writer:
    """Write rows to the end and return their writer."""
    writer = Writer(database)
    for row in rows:
        writer.append(row)
    writer.start()
    await writer.close(30.0)
    assert (writer.written, writer.dropped) == (len(rows), 0)
    return writer
