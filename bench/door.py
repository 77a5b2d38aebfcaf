"""What a key and its limits cost: the same route of the server behind them and open to all.

python -m bench.door

GET /v1/models of two real servers, one that asks for a key and counts its requests, one that does
neither; beside them a bare Litestar route that makes a single Redis call. Redis is a real Valkey
that syncs as the ledger's must; the callers are 1,000 keys in turn, first seen before it counts.
"""

import asyncio
import sys
from itertools import cycle
from statistics import median

import uvicorn
import uvloop

from api.admission.key_store import KeyStore
from api.admission.keys import KeySpec
from api.stores.breaker import Breaker
from api.stores.calls import RedisCalls, Script
from api.stores.connect import connect
from bench.support.engine import ScriptedEngine
from bench.support.load import again_and_again
from bench.support.processes import module, valkey
from bench.support.serving import LIMITED, page_index, served
from bench.support.sizes import at_size
from bench.support.tables import Row, print_header, print_rows, ratio_of

N_KEYS = at_size(1_000, 20)
N_CONNECTIONS = 8
SECONDS = at_size(3.0, 0.5)
ROUNDS = at_size(5, 1)
AS_LEDGER = (
    "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction",
)  # fmt: skip
ONE_CALL = Script("return redis.call('INCR', KEYS[1])")


def serve_one_call(port: int, socket: str) -> None:
    """A route that makes one call to Redis."""
    from litestar import Litestar, get

    calls = RedisCalls(connect(f"unix://{socket}"), Breaker("bench"))

    @get("/v1/models")
    async def route() -> dict[str, str]:
        await calls.run(ONE_CALL, ["bench"], [])
        return {"status": "ok"}

    app = Litestar([route], openapi_config=None)
    uvicorn.run(app, port=port, log_level="error", access_log=False, ws="none")


async def load(port: int, keys: list[str]) -> float:
    """Return requests a second over kept connections, the keys in turn."""
    asked = cycle(
        f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        for key in keys
    )
    spent = await again_and_again(port, asked, seconds=SECONDS, connections=N_CONNECTIONS)
    return len(spent) / SECONDS


async def make_keys(socket: str) -> list[str]:
    redis = connect(f"unix://{socket}")
    store = KeyStore(RedisCalls(redis, Breaker("bench"), timeout_s=5), max_keys=2 * N_KEYS)
    created = [await store.create(KeySpec(name=f"key {n}")) for n in range(N_KEYS)]
    await redis.aclose()
    return [str(one.key.text()) for one in created]


def rows() -> list[Row]:
    with (
        page_index() as index_dir,
        valkey(*AS_LEDGER) as socket,
        ScriptedEngine(lambda _: ["tea"]) as engine,
    ):
        keys = asyncio.run(make_keys(socket))
        environ = {
            "ENGINE": "tgi", "ENGINE_URL": engine.url, "CB_REDIS_URL": f"unix://{socket}",
        }  # fmt: skip
        asking = LIMITED | {"AUTH_ENABLED": "true", "AUTH_API_KEY": "of the settings, and long"}
        with (
            served(index_dir, **environ, **asking) as door,
            served(index_dir, **environ) as free,
            module("bench.door", socket) as one_call,
        ):
            return measure({"door": door.port, "free": free.port, "bare": one_call.port}, keys)


def measure(ports: dict[str, int], keys: list[str]) -> list[Row]:
    rates: dict[str, list[float]] = {role: [] for role in ports}
    for port in ports.values():
        uvloop.run(load(port, keys))  # every key is seen once
    for _ in range(ROUNDS):
        for role, port in ports.items():
            rates[role].append(uvloop.run(load(port, keys)))
    door, free, bare = (median(of_role) for of_role in rates.values())
    what = f"GET /v1/models, {N_KEYS:,} keys with limits, requests/s"
    return [
        {"what": what, "ours": f"{door:.0f}", "bare": f"without keys and limits {free:.0f}",
         "ratio": f"{ratio_of(rates['free'], rates['door']):.2f} times as long", "goal": ""},
        {"what": what, "ours": f"{door:.0f}", "bare": f"bare route with one Redis call {bare:.0f}",
         "ratio": f"{ratio_of(rates['bare'], rates['door']):.2f} times as long", "goal": ""},
    ]  # fmt: skip


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve_one_call(int(sys.argv[1]), sys.argv[2])
    else:
        print_header()
        print_rows(rows())
