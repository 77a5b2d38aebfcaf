"""Who is let in, for how much: the door on a real server."""

import asyncio
from pathlib import Path

import pytest

from api.admission.caller import ALL_SCOPES, PUBLIC, SETTINGS_KEY, KeyBudget, Limit, LimitOverride
from api.admission.door import Door, Rules
from api.admission.key_store import KeyStore
from api.admission.keys import KeySpec, new_api_key
from api.admission.limits import NO_COST, Cost
from api.admission.refusals import RateLimited, TooManyFailures
from api.admission.trip import TAG
from api.errors import Unauthorized
from api.stores.breaker import Breaker
from api.stores.calls import RedisCalls
from tests.admission.conftest import Server
from tests.admission.doors import (
    API_KEY,
    PEER,
    PEPPER,
    Clock,
    ask,
    calls_to,
    commands,
    limited,
    opened,
    until,
    with_key,
)

SPEC = KeySpec(name="Anna")


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


def test_door_key_of_the_store_brings_what_it_may(server: Server) -> None:
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


def test_door_limit_is_refused_with_the_wait(server: Server) -> None:
    async def scenario() -> None:
        async with opened(server, limited(2), api_key=None) as (door, _):
            for _ in range(2):
                await door.admit({}, PEER, "query")
            with pytest.raises(RateLimited) as refused:
                await door.admit({}, PEER, "query")
            assert refused.value.route_class == "query"
            assert refused.value.allowance.limit == 2
            assert 0 < refused.value.retry_after_s <= 30
            assert str(refused.value) == "more than 2 requests a minute"
            # neither another address nor another class is concerned
            await door.admit({}, "192.0.2.2", "query")
            await door.admit({}, PEER, "search")

    asyncio.run(scenario())


def test_door_limits_count_by_key_with_auth_and_by_address_without(server: Server) -> None:
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


def test_door_thousand_keys_have_a_limit_each(server: Server) -> None:
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


def test_door_makes_one_trip_and_a_second_at_first_sight(server: Server) -> None:
    async def scenario() -> None:
        async with calls_to(server) as calls:
            door = Door(calls, limited(100), api_key=API_KEY, pepper=PEPPER)
            key = (await KeyStore(calls, pepper=PEPPER).create(SPEC)).key.text()
            await ask(door, API_KEY)  # the server learns the script
            assert await commands(calls, lambda: ask(door, key)) == ["HGET", "EVALSHA"]
            assert await commands(calls, lambda: ask(door, key)) == ["EVALSHA"]
            assert await commands(calls, lambda: ask(door, API_KEY)) == ["EVALSHA"]

    asyncio.run(scenario())


def test_door_every_wrong_key_takes_the_same_steps(server: Server) -> None:
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


def test_door_revocation_holds_at_the_next_request_in_every_process(server: Server) -> None:
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


def test_door_rate_limited_and_revoked_key_is_told_that_it_is_revoked(server: Server) -> None:
    async def scenario() -> None:
        async with opened(server, limited(1)) as (door, keys):
            made = await keys.create(SPEC)
            await ask(door, made.key.text())
            await keys.revoke(made.key.id)
            with pytest.raises(Unauthorized):
                await ask(door, made.key.text())

    asyncio.run(scenario())


def test_door_rotation_admits_both_secrets_for_the_grace(server: Server) -> None:
    async def scenario() -> None:
        async with opened(server) as (door, keys):
            first = await keys.create(SPEC)
            await ask(door, first.key.text())
            second = await keys.rotate(first.key.id, grace_s=3600)
            for key in (second.key, first.key, second.key):
                await ask(door, key.text())
            third = await keys.rotate(first.key.id, grace_s=0.001)
            await until(keys, third.record.digests[1].not_after)
            await ask(door, third.key.text())
            for key in (first.key, second.key):
                with pytest.raises(Unauthorized):
                    await ask(door, key.text())

    asyncio.run(scenario())


def test_door_key_expires_by_the_servers_clock(server: Server) -> None:
    async def scenario() -> None:
        async with opened(server) as (door, keys):
            now_s = await keys.now()
            lasting = await keys.create(KeySpec(name="n", expires_at=now_s + 3600))
            brief = await keys.create(KeySpec(name="n", expires_at=now_s + 0.001))
            await until(keys, now_s + 0.001)
            await ask(door, lasting.key.text())
            with pytest.raises(Unauthorized):
                await ask(door, brief.key.text())

    asyncio.run(scenario())


def test_door_another_pepper_admits_no_key(server: Server) -> None:
    async def scenario() -> None:
        async with opened(server) as (_, keys), opened(server, pepper=b"other") as (door, _):
            made = await keys.create(SPEC)
            with pytest.raises(Unauthorized):
                await ask(door, made.key.text())

    asyncio.run(scenario())


def test_door_returns_values_of_the_same_trip(server: Server) -> None:
    async def scenario() -> None:
        async with calls_to(server) as calls:
            await calls.redis.set(f"{TAG}:flag", "open")
            door = Door(calls, Rules(), api_key=None)
            admitted = await door.admit({}, PEER, "query", also=[f"{TAG}:flag", f"{TAG}:no"])
            assert admitted.values == [b"open", None]

    asyncio.run(scenario())


def test_door_unlimited_class_costs_no_trip_but_for_keys_of_the_store(server: Server) -> None:
    async def scenario() -> None:
        async with calls_to(server) as calls:
            door = Door(calls, limited(1), api_key=API_KEY, pepper=PEPPER)
            key = (await KeyStore(calls, pepper=PEPPER).create(SPEC)).key.text()
            for given, sent in ((API_KEY, []), (key, ["HGET", "EVALSHA", "EVAL"]), (API_KEY, [])):
                search = door.admit(with_key(given), PEER, "search")
                assert await commands(calls, lambda search=search: search) == sent
            admitted = await door.admit(with_key(API_KEY), PEER, "search")
            assert [row.route_class for row in await door.status(admitted)] == ["query"]

    asyncio.run(scenario())


def test_door_batch_is_counted_by_its_questions(server: Server) -> None:
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


def test_door_tokens_are_corrected_when_they_are_known(server: Server) -> None:
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


def test_door_status_tells_every_limited_class_and_takes_nothing(server: Server) -> None:
    async def scenario() -> None:
        limits = {"query": Limit(10, 500), "admin": Limit(60), "search": Limit()}
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


def test_door_wrong_keys_are_limited_by_address_alone(server: Server) -> None:
    async def scenario() -> None:
        rules = Rules(failures_per_minute=3)
        async with opened(server, rules) as (door, keys), opened(server, rules) as (other, _):
            good = (await keys.create(SPEC)).key.text()
            for door_asked in (door, other, door):
                with pytest.raises(Unauthorized):
                    await ask(door_asked, "a guess")
            for door_asked in (other, door):  # counted over both
                with pytest.raises(TooManyFailures) as refused:
                    await ask(door_asked, new_api_key().text())
                assert 0 < refused.value.retry_after_s <= 20
            # neither keys that cannot be guessed nor another address are locked out
            await ask(door, good)
            await ask(door, API_KEY)
            await ask(door, API_KEY, peer="192.0.2.2")
            with pytest.raises(Unauthorized):
                await ask(door, "a guess", peer="192.0.2.2")

    asyncio.run(scenario())


def test_door_successes_are_no_failures(server: Server) -> None:
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
    server: Server,
) -> None:
    async def scenario() -> None:
        clock = Clock()
        fields = {"api_key": b"short", "clock": clock}
        async with opened(server, Rules(failures_per_minute=2), **fields) as (door, _):
            await ask(door, "short")
            for _ in range(2):
                with pytest.raises(Unauthorized):
                    await ask(door, "guess")
            for guess in ("guess", "short", "guess"):
                with pytest.raises(TooManyFailures):
                    await ask(door, guess)
            await ask(door, "short", peer="192.0.2.2")
            clock.now += 30.0
            await ask(door, "short")

    asyncio.run(scenario())


def test_door_blocked_address_costs_no_more_trips(server: Server) -> None:
    async def scenario() -> None:
        async with calls_to(server) as calls:
            door = Door(calls, Rules(failures_per_minute=1), api_key=API_KEY)
            for expected in (Unauthorized, TooManyFailures):
                with pytest.raises(expected):
                    await ask(door, "a guess")

            async def refused() -> None:
                with pytest.raises(TooManyFailures):
                    await ask(door, "a guess")

            assert await commands(calls, refused) == []

    asyncio.run(scenario())


def test_door_knows_no_framework_and_no_environment() -> None:
    room = Path(__file__).parents[2] / "api" / "admission"
    for module in room.glob("*.py"):
        text = module.read_text()
        assert "litestar" not in text and "os.environ" not in text, module.name
