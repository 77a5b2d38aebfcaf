"""Who is let in, and as whom: keys at the door, on a real server."""

import asyncio
from pathlib import Path

import pytest

from api.admission.caller import ALL_SCOPES, PUBLIC, SETTINGS_KEY, KeyBudget, LimitOverride
from api.admission.door import Door, Rules
from api.admission.key_store import KeyStore
from api.admission.keys import KeySpec, new_api_key
from api.errors import Unauthorized
from api.stores.breaker import Breaker
from api.stores.calls import RedisCalls
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
    until_time,
    with_key,
)
from tests.support.servers import RedisServer


def no_store() -> RedisCalls:
    """Calls that fail a test when they are used."""
    return RedisCalls(None, Breaker("none"))


def test_door_auth_off_and_limits_off_asks_nobody() -> None:
    door = Door(no_store(), Rules(), api_key=None)
    admitted = door.admit_at_once({}, "query")
    assert (admitted.caller, admitted.headers()) == (PUBLIC, {})
    assert asyncio.run(door.admit({}, None, "query")) == admitted
    assert door.state().limits == door.state().keys == door.state().wrong_keys == "off"


@pytest.mark.parametrize(
    "headers",
    [
        with_key(API_KEY),
        {"authorization": f"Bearer {API_KEY.decode()}"},
        {"authorization": f"bearer  {API_KEY.decode()} "},
        {"x-api-key": API_KEY.decode(), "authorization": "Bearer wrong"},
    ],
)
def test_door_settings_key_and_limits_off_asks_nobody(headers: dict[str, str]) -> None:
    door = Door(no_store(), Rules(), api_key=API_KEY)
    admitted = asyncio.run(door.admit(headers, PEER, "query"))
    assert admitted.caller == SETTINGS_KEY
    assert admitted.caller.scopes == ALL_SCOPES


def test_door_settings_key_beyond_ascii_is_compared_by_its_bytes() -> None:
    key = "schlüssel-ключ-🔑-of-many-characters".encode()
    door = Door(no_store(), Rules(), api_key=key)
    assert door.admit_at_once({"x-api-key": key.decode("latin-1")}, "query") is not None
    assert door.admit_at_once({"x-api-key": key.decode()}, "query") is None


def test_door_settings_key_that_looks_like_one_of_the_store_is_refused() -> None:
    with pytest.raises(ValueError, match="AUTH_API_KEY"):
        Door(no_store(), Rules(), api_key=new_api_key().text().encode())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": ""},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": f"Basic {API_KEY.decode()}"},
        {"x-api-key": str(new_api_key().text())[:-1]},
        {"x-api-key": str(new_api_key().text()) + "x"},
    ],
)
def test_door_key_missing_or_mistyped_is_refused_without_a_trip(headers: dict[str, str]) -> None:
    door = Door(no_store(), limited(10), api_key=API_KEY)
    with pytest.raises(Unauthorized, match="Invalid or missing API key"):
        asyncio.run(door.admit(headers, PEER, "query"))


def test_door_key_of_the_store_brings_what_it_may(server: RedisServer) -> None:
    async def scenario() -> None:
        spec = KeySpec(
            name="n",
            tenant="acme",
            groups=("staff",),
            scopes=frozenset({"ingest"}),
            budgets=(KeyBudget("day", 5),),
            limits=(LimitOverride(route_class="query", requests=3),),
        )
        async with opened(server, limited(100)) as (door, keys):
            made = await keys.create(spec)
            for headers in (
                with_key(made.key.text()),
                {"authorization": f"Bearer {made.key.text()}"},
            ):
                admitted = await door.admit(headers, PEER, "query")
                assert admitted.caller == made.record.caller()
                assert admitted.subject == f"key:{made.key.id}"
            headers = admitted.headers()
            assert headers["RateLimit-Limit"] == "3" and headers["RateLimit-Remaining"] == "1"
            assert 20 < int(headers["RateLimit-Reset"]) <= 40
            assert door.state().keys == "shared"

    asyncio.run(scenario())


def test_door_makes_one_trip_and_a_second_at_first_sight(server: RedisServer) -> None:
    async def scenario() -> None:
        async with calls_to(server) as calls:
            door = Door(calls, limited(100), api_key=API_KEY, pepper=PEPPER)
            key = (await KeyStore(calls, pepper=PEPPER).create(SPEC)).key.text()
            await ask(door, API_KEY)  # the server learns the script
            assert await commands(calls, lambda: ask(door, key)) == ["HGET", "EVALSHA"]
            assert await commands(calls, lambda: ask(door, key)) == ["EVALSHA"]
            assert await commands(calls, lambda: ask(door, API_KEY)) == ["EVALSHA"]

    asyncio.run(scenario())


def test_door_every_wrong_key_takes_the_same_steps(server: RedisServer) -> None:
    async def scenario() -> None:
        async with calls_to(server) as calls:
            door = Door(calls, limited(100), api_key=API_KEY, pepper=PEPPER)
            key = (await KeyStore(calls, pepper=PEPPER).create(SPEC)).key
            await ask(door, key.text())
            wrong = {
                "a known id": new_api_key(key.id).text(),
                "an unknown id": new_api_key().text(),
            }
            for i, text in enumerate(wrong.values()):

                async def refused(text: str = text, peer: str = f"192.0.2.{i + 7}") -> None:
                    with pytest.raises(Unauthorized):
                        await ask(door, text, peer)

                assert await commands(calls, refused) == ["HGET", "EVALSHA"]

    asyncio.run(scenario())


def test_door_revocation_holds_at_the_next_request_in_every_process(server: RedisServer) -> None:
    async def scenario() -> None:
        async with opened(server) as (here, keys), opened(server) as (there, _):
            made = await keys.create(SPEC)
            for door in (here, there):
                await ask(door, made.key.text())
            await keys.revoke(made.key.id)
            for door in (there, here, there):
                with pytest.raises(Unauthorized):
                    await ask(door, made.key.text())

    asyncio.run(scenario())


def test_door_rate_limited_and_revoked_key_is_told_that_it_is_revoked(server: RedisServer) -> None:
    async def scenario() -> None:
        async with opened(server, limited(1)) as (door, keys):
            made = await keys.create(SPEC)
            await ask(door, made.key.text())
            await keys.revoke(made.key.id)
            with pytest.raises(Unauthorized):
                await ask(door, made.key.text())

    asyncio.run(scenario())


def test_door_rotation_admits_both_secrets_for_the_grace(server: RedisServer) -> None:
    async def scenario() -> None:
        async with opened(server) as (door, keys):
            first = await keys.create(SPEC)
            await ask(door, first.key.text())
            second = await keys.rotate(first.key.id, grace_s=3600)
            for key in (second.key, first.key, second.key):
                await ask(door, key.text())
            third = await keys.rotate(first.key.id, grace_s=0.001)
            await until_time(keys, third.record.digests[1].not_after)
            await ask(door, third.key.text())
            for key in (first.key, second.key):
                with pytest.raises(Unauthorized):
                    await ask(door, key.text())

    asyncio.run(scenario())


def test_door_key_expires_by_the_servers_clock(server: RedisServer) -> None:
    async def scenario() -> None:
        async with opened(server) as (door, keys):
            now_s = await keys.now()
            lasting = await keys.create(KeySpec(name="n", expires_at=now_s + 3600))
            brief = await keys.create(KeySpec(name="n", expires_at=now_s + 0.001))
            await until_time(keys, now_s + 0.001)
            await ask(door, lasting.key.text())
            with pytest.raises(Unauthorized):
                await ask(door, brief.key.text())

    asyncio.run(scenario())


def test_door_another_pepper_admits_no_key(server: RedisServer) -> None:
    async def scenario() -> None:
        async with opened(server) as (_, keys), opened(server, pepper=b"other") as (door, _):
            made = await keys.create(SPEC)
            with pytest.raises(Unauthorized):
                await ask(door, made.key.text())

    asyncio.run(scenario())


def test_door_knows_no_framework_and_no_environment() -> None:
    room = Path(__file__).parents[2] / "api" / "admission"
    for module in room.glob("*.py"):
        text = module.read_text()
        assert "litestar" not in text and "os.environ" not in text, module.name
