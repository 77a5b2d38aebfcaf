"""What the door costs: a route behind auth and limits beside one that makes a single Redis call.

python -m bench.door

Both are the same Litestar route under uvicorn in a process of its own; Redis is a real Valkey,
the callers are 1,000 keys in turn, first seen before the measurement.
"""

import asyncio
import sys
import time
from contextlib import ExitStack
from statistics import median
from types import SimpleNamespace
from typing import Any

import uvicorn
from litestar import Litestar, Request, get
from litestar.datastructures import State

from api.admission.caller import Limit, RouteClass
from api.admission.door import Door, Rules
from api.admission.key_store import KeyStore
from api.admission.keys import KeySpec
from api.stores.breaker import Breaker
from api.stores.calls import RedisCalls, Script
from api.stores.connect import connect
from api.telemetry.metrics import Metrics
from api.telemetry.record import Record
from bench.support.processes import free_port, is_open, module, until, valkey
from bench.support.tables import Row, print_rows

N_KEYS = 1000
N_CONNECTIONS = 8
SECONDS = 3.0
AS_LEDGER = (
    "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction",
)  # fmt: skip
ONE_CALL = Script("return redis.call('INCR', KEYS[1])")


def app(role: str, socket: str) -> Any:
    """The route, with what stands before it in each role."""
    from api.http.admit import admitting

    calls = RedisCalls(connect(f"unix://{socket}"), Breaker("bench"))
    limits: dict[RouteClass, Limit] = {"query": Limit(requests=1_000_000)}
    door = Door(calls, Rules(limits=limits), api_key=b"of the settings")
    pipeline = SimpleNamespace(max_new_tokens=80)
    settings = SimpleNamespace(pipeline=pipeline)
    service = SimpleNamespace(door=door, metrics=Metrics(), settings=settings)

    async def one_call(_: Request[Any, Any, Any]) -> None:
        await calls.run(ONE_CALL, ["bench"], [])

    before = admitting("query", "query") if role == "door" else one_call

    @get("/", before_request=before)
    async def route() -> dict[str, str]:
        return {"status": "ok"}

    inner = Litestar([route], state=State({"service": service}), openapi_config=None)

    async def with_state(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            record = Record(request_id="", started=time.monotonic())
            scope["state"] = {"headers": headers, "record": record}
        await inner(scope, receive, send)

    return with_state


def serve(role: str, port: int, socket: str) -> None:
    uvicorn.run(app(role, socket), port=port, log_level="error", access_log=False, ws="none")


async def load(port: int, keys: list[str]) -> float:
    """Return requests a second over kept connections, the keys in turn."""
    requests = [
        f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode() for key in keys
    ]
    done = 0
    started = time.perf_counter()

    async def one(offset: int) -> None:
        nonlocal done
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        n = offset
        while time.perf_counter() - started < SECONDS:
            writer.write(requests[n % len(requests)])
            n += N_CONNECTIONS
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            done += 1
        writer.close()

    await asyncio.gather(*(one(n) for n in range(N_CONNECTIONS)))
    return done / (time.perf_counter() - started)


async def make_keys(socket: str) -> list[str]:
    redis = connect(f"unix://{socket}")
    store = KeyStore(RedisCalls(redis, Breaker("bench"), timeout_s=5), max_keys=2 * N_KEYS)
    created = [await store.create(KeySpec(name=f"key {n}")) for n in range(N_KEYS)]
    await redis.aclose()
    return [str(one.key.text()) for one in created]


def rows() -> list[Row]:
    ports = {"door": free_port(), "one_call": free_port()}
    rates: dict[str, list[float]] = {role: [] for role in ports}
    with ExitStack() as stack:
        socket = stack.enter_context(valkey(*AS_LEDGER))
        keys = asyncio.run(make_keys(socket))
        for role, port in ports.items():
            stack.enter_context(module("bench.door", role, str(port), socket))
        for port in ports.values():
            until(lambda port=port: is_open(port))  # type: ignore[misc]
            asyncio.run(load(port, keys))  # every key is seen once
        for _ in range(3):
            for role, port in ports.items():
                rates[role].append(asyncio.run(load(port, keys)))
    door, one_call = median(rates["door"]), median(rates["one_call"])
    return [
        {"what": "auth + limits, 1,000 keys, requests/s", "ours": f"{door:.0f}",
         "bare": f"route with one Redis call {one_call:.0f}",
         "ratio": f"{one_call / door:.2f}", "goal": "≤ 1.3"},
    ]  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    else:
        print_rows(rows())
