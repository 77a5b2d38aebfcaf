"""Limits at the door, on a real server: requests, tokens, batches, what is told of them."""

import asyncio
from functools import partial

import pytest

from api.admission.caller import Limit, RouteClass
from api.admission.door import Door, Rules
from api.admission.key_store import KeyStore
from api.admission.limits import NO_COST, Cost
from api.admission.refusals import RateLimited
from tests.admission.doors import (
    API_KEY,
    PEER,
    PEPPER,
    SPEC,
    ask,
    calls_to,
    commands,
    limited,
    opened,
    with_key,
)
from tests.support.servers import RedisServer


def test_door_limit_is_refused_with_the_wait(server: RedisServer) -> None:
    async def scenario() -> None:
        async with opened(server, limited(2), api_key=None) as (door, _):
            for _ in range(2):
                await door.admit({}, PEER, "query")
            with pytest.raises(RateLimited) as refused:
                await door.admit({}, PEER, "query")
            assert refused.value.allowance.limit == 2
            assert 0 < refused.value.retry_after_s <= 30
            assert str(refused.value) == "more than 2 requests a minute"
            # neither another address nor another class is concerned
            await door.admit({}, "192.0.2.2", "query")
            await door.admit({}, PEER, "search")

    asyncio.run(scenario())


def test_door_limits_count_by_key_with_auth_and_by_address_without(server: RedisServer) -> None:
    async def scenario() -> None:
        async with opened(server, limited(1)) as (door, keys):
            first, second = [(await keys.create(SPEC)).key.text() for _ in range(2)]
            await ask(door, first)
            await ask(door, second)
            await ask(door, API_KEY)
            for key in (first, second, API_KEY):
                with pytest.raises(RateLimited):
                    await ask(door, key, peer="192.0.2.99")
        rules = limited(1, trusted_proxies=("192.0.2.0/24",))
        async with opened(server, rules, api_key=None) as (door, _):
            for client in ("198.51.100.1", "198.51.100.2"):
                headers = {"x-forwarded-for": f"6.6.6.6, {client}"}
                await door.admit(headers, PEER, "query")
                with pytest.raises(RateLimited):
                    await door.admit(headers, PEER, "query")

    asyncio.run(scenario())


def test_door_thousand_keys_have_a_limit_each(server: RedisServer) -> None:
    async def scenario() -> None:
        async with opened(server, limited(2)) as (door, keys):
            await keys._calls.redis.config_set("appendfsync", "no")
            texts = [(await keys.create(SPEC)).key.text() for _ in range(1000)]
            for i, text in enumerate(texts):
                await ask(door, text)
                await ask(door, text)
                if i % 97 == 0:
                    with pytest.raises(RateLimited):
                        await ask(door, text)

    asyncio.run(scenario())


def test_door_unlimited_class_costs_no_trip_but_for_keys_of_the_store(server: RedisServer) -> None:
    async def scenario() -> None:
        async with calls_to(server) as calls:
            door = Door(calls, limited(1), api_key=API_KEY, pepper=PEPPER)
            key = (await KeyStore(calls, pepper=PEPPER).create(SPEC)).key.text()
            for given, sent in ((API_KEY, []), (key, ["HGET", "EVALSHA", "EVAL"]), (API_KEY, [])):
                search = partial(door.admit, with_key(given), PEER, "search")
                assert await commands(calls, search) == sent
            admitted = await door.admit(with_key(API_KEY), PEER, "search")
            assert [row.route_class for row in await door.status(admitted)] == ["query"]

    asyncio.run(scenario())


def test_door_batch_is_counted_by_its_questions(server: RedisServer) -> None:
    async def scenario() -> None:
        async with opened(server, Rules(limits={"batch": Limit(20)}), api_key=None) as (door, _):
            admitted = await door.admit({}, PEER, "batch", NO_COST)
            assert admitted.allowance.remaining == 20
            charged = await door.charge(admitted, Cost(requests=12))
            assert (charged.allowance.remaining, charged.cost.requests) == (8, 12)
            with pytest.raises(RateLimited):
                await door.charge(admitted, Cost(requests=20))
            assert (await door.charge(admitted, Cost(requests=8))).allowance.remaining < 8

    asyncio.run(scenario())


def test_door_tokens_are_corrected_when_they_are_known(server: RedisServer) -> None:
    async def scenario() -> None:
        async with opened(server, limited(tokens=1000), api_key=None) as (door, _):
            admitted = await door.admit({}, PEER, "query", Cost(tokens=1000))
            assert admitted.allowance.unit == "tokens"
            with pytest.raises(RateLimited):
                await door.admit({}, PEER, "query", Cost(tokens=1000))
            await door.correct(admitted, 100)
            again = await door.admit({}, PEER, "query", Cost(tokens=500))
            assert again.allowance.remaining >= 400
            door.correct_soon(again, 3000)
            await door.close()
            with pytest.raises(RateLimited) as refused:
                await door.admit({}, PEER, "query", Cost(tokens=1000))
            assert 120 < refused.value.retry_after_s <= 186
            assert door.state().lost_corrections == 0

    asyncio.run(scenario())


def test_door_status_tells_every_limited_class_and_takes_nothing(server: RedisServer) -> None:
    async def scenario() -> None:
        limits: dict[RouteClass, Limit] = {
            "query": Limit(10, 500),
            "admin": Limit(60),
            "search": Limit(),
        }
        async with opened(server, Rules(limits=limits), api_key=None) as (door, _):
            await door.admit({}, PEER, "query", Cost(1, 100))
            admitted = await door.admit({}, PEER, "admin")
            for _ in range(3):
                rows = {
                    (row.route_class, row.allowance.unit): row.allowance.remaining
                    for row in await door.status(admitted)
                }
            assert 9 <= rows[("query", "requests")] <= 10
            assert 400 <= rows[("query", "tokens")] <= 500
            assert 59 <= rows[("admin", "requests")] <= 60
            assert len(rows) == 3

    asyncio.run(scenario())
