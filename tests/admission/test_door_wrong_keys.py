"""Wrong keys at the door: their addresses are limited, and nothing else is."""

import asyncio

import pytest

from api.admission.door import Door, Rules
from api.admission.keys import new_api_key
from api.errors import RateLimited, Unauthorized
from tests.admission.doors import (
    API_KEY,
    SPEC,
    Clock,
    ask,
    calls_to,
    commands,
    opened,
)
from tests.support.servers import RedisServer


def test_door_wrong_keys_are_limited_by_address_alone(server: RedisServer) -> None:
    async def scenario() -> None:
        rules = Rules(failures_per_minute=3)
        async with opened(server, rules) as (door, keys), opened(server, rules) as (other, _):
            good = (await keys.create(SPEC)).key.text()
            for door_asked in (door, other, door):
                with pytest.raises(Unauthorized):
                    await ask(door_asked, "a guess")
            for door_asked in (other, door):  # counted over both
                with pytest.raises(RateLimited, match="wrong keys") as refused:
                    await ask(door_asked, new_api_key().text())
                assert 0 < refused.value.retry_after_s <= 20
            # neither keys that cannot be guessed nor another address are locked out
            await ask(door, good)
            await ask(door, API_KEY)
            await ask(door, API_KEY, peer="192.0.2.2")
            with pytest.raises(Unauthorized):
                await ask(door, "a guess", peer="192.0.2.2")

    asyncio.run(scenario())


def test_door_successes_are_no_failures(server: RedisServer) -> None:
    async def scenario() -> None:
        async with opened(server, Rules(failures_per_minute=1)) as (door, keys):
            good = (await keys.create(SPEC)).key.text()
            for _ in range(5):
                await ask(door, good)
                await ask(door, API_KEY)
            with pytest.raises(Unauthorized):
                await ask(door, "a guess")

    asyncio.run(scenario())


def test_door_short_settings_key_is_not_compared_while_its_address_is_blocked(
    server: RedisServer,
) -> None:
    async def scenario() -> None:
        clock = Clock()
        rules = Rules(failures_per_minute=2)
        async with opened(server, rules, api_key=b"short", clock=clock) as (door, _):
            await ask(door, "short")
            for _ in range(2):
                with pytest.raises(Unauthorized):
                    await ask(door, "guess")
            for guess in ("guess", "short", "guess"):
                with pytest.raises(RateLimited, match="wrong keys"):
                    await ask(door, guess)
            await ask(door, "short", peer="192.0.2.2")
            clock.now += 30.0
            await ask(door, "short")

    asyncio.run(scenario())


def test_door_blocked_address_costs_no_more_trips(server: RedisServer) -> None:
    async def scenario() -> None:
        async with calls_to(server) as calls:
            door = Door(calls, Rules(failures_per_minute=1), api_key=API_KEY)
            for expected in (Unauthorized, RateLimited):
                with pytest.raises(expected):
                    await ask(door, "a guess")

            async def refused() -> None:
                with pytest.raises(RateLimited, match="wrong keys"):
                    await ask(door, "a guess")

            assert await commands(calls, refused) == []

    asyncio.run(scenario())
