"""What the tests of the door share: doors on a server, headers, counted commands."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from api.admission.caller import Limit, RouteClass
from api.admission.door import Admitted, Door, Rules
from api.admission.key_store import KeyStore
from api.admission.keys import KeySpec
from api.stores.breaker import Breaker
from api.stores.calls import RedisCalls
from tests.support.servers import RedisServer

API_KEY = b"settings-key-with-many-characters"
PEPPER = b"pepper"
PEER = "192.0.2.1"
SPEC = KeySpec(name="Anna")
OPEN_S = 0.3
"""Of the breaker, so that a server that is back is asked soon."""


class OverheardRedis(Redis):
    """A client that remembers what it sends."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.sent: list[tuple] = []

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        self.sent.append(args)
        return await super().execute_command(*args, **options)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def limited(requests: int = 0, tokens: int = 0, **fields: Any) -> Rules:
    limits: dict[RouteClass, Limit] = {}
    if requests or tokens:
        limits["query"] = Limit(requests, tokens)
    return Rules(limits=limits, **fields)


def with_key(key: object) -> Mapping[str, str]:
    text = key.decode() if isinstance(key, bytes) else str(key)
    return {"x-api-key": text}


@asynccontextmanager
async def calls_to(server: RedisServer, timeout_s: float = 2.0):
    client = server.client(timeout_s, OverheardRedis)
    try:
        yield RedisCalls(client, Breaker("ledger", failures=1, open_s=OPEN_S), timeout_s=timeout_s)
    finally:
        await client.aclose()


async def with_calls(
    server: RedisServer,
    scenario: Callable[[RedisCalls], Awaitable[None]],
    *,
    timeout_s: float = 2.0,
) -> None:
    """Run a scenario on calls that a busy machine does not time out."""
    client = server.client(timeout_s, OverheardRedis)
    try:
        await scenario(RedisCalls(client, Breaker("ledger", open_s=0.2), timeout_s=timeout_s))
    finally:
        await client.aclose()


@asynccontextmanager
async def opened(
    server: RedisServer, rules: Rules | None = None, *, timeout_s: float = 2.0, **fields
):
    """A door with auth on, and the store of its keys."""
    given = {"api_key": API_KEY, "pepper": PEPPER, **fields}
    async with calls_to(server, timeout_s) as calls:
        door = Door(calls, rules or Rules(), **given)
        yield door, KeyStore(calls, pepper=PEPPER)
        await door.close()


async def ask(door: Door, key: object, peer: str = PEER) -> Admitted:
    return await door.admit(with_key(key), peer, "query")


async def commands(calls: RedisCalls, use: Callable[[], Awaitable[object]]) -> list[str]:
    """Return the names of the commands that a use sends."""
    calls.redis.sent.clear()
    await use()
    return [command[0] for command in calls.redis.sent]


async def until_time(keys: KeyStore, at_s: float) -> None:
    """Wait for a time of the server's clock."""
    left_s = at_s - await keys.now()
    if left_s >= 0:
        await asyncio.sleep(left_s + 0.001)
        await until_time(keys, at_s)
