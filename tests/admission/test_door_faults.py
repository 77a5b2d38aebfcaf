"""The declared answer each time the ledger's Redis is dead, frozen, full or new."""

import asyncio
import contextlib
import logging
import signal

import pytest

from api.admission.caller import Limit
from api.admission.door import Door, Rules
from api.admission.keys import KeySpec, new_api_key
from api.admission.limits import Cost
from api.admission.refusals import KeysDown
from api.errors import LedgerDown, RateLimited, Unauthorized
from tests.admission.doors import API_KEY, OPEN_S, PEER, Clock, ask, limited, opened
from tests.support.servers import RedisServer

SPEC = KeySpec(name="Anna")
HARMS = [signal.SIGKILL, signal.SIGSTOP]
TIMEOUT_S = 1.0

harms = pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.name)


def mend(server: RedisServer, harm: signal.Signals) -> None:
    if harm == signal.SIGSTOP:
        server.send(signal.SIGCONT)
    else:
        server.kill()
        server.start()


async def until_shared(door: Door, key: object) -> None:
    """Ask until the breaker has let a probe through."""
    for _ in range(100):
        with contextlib.suppress(LedgerDown, RateLimited):
            await ask(door, key)
        state = door.state()
        if state.keys == "shared" and state.limits in ("shared", "off"):
            return
        await asyncio.sleep(OPEN_S)
    raise AssertionError("the door never came back")


@harms
def test_door_store_gone_known_keys_serve_and_unknown_ones_are_told(
    server: RedisServer, harm: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        clock = Clock()
        async with opened(server, timeout_s=TIMEOUT_S, clock=clock) as (door, keys):
            known = (await keys.create(SPEC)).key
            unseen = (await keys.create(SPEC)).key
            admitted = await ask(door, known.text())
            server.send(harm)
            for _ in range(3):
                assert (await ask(door, known.text())).caller == admitted.caller
            assert door.state().keys == "unconfirmed"
            for other in (unseen, new_api_key(), new_api_key(known.id)):
                with pytest.raises(KeysDown) as down:
                    await ask(door, other.text())
                assert down.value.retry_after_s
            await ask(door, API_KEY)  # needs nobody
            clock.now += 299.0
            await ask(door, known.text())
            clock.now += 2.0  # 301 s after the last confirmation, not after the last use
            with pytest.raises(KeysDown):
                await ask(door, known.text())
            mend(server, harm)
            await until_shared(door, known.text())
            assert (await ask(door, unseen.text())).caller.key_id == unseen.id

    with caplog.at_level(logging.INFO, logger="ragrelay"):
        asyncio.run(scenario())
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("keys seen lately serve unconfirmed") == 1
    assert lines.count("keys are confirmed again") == 1


@harms
def test_door_store_gone_closed_limits_refuse(server: RedisServer, harm: signal.Signals) -> None:
    async def scenario() -> None:
        async with opened(server, limited(5), timeout_s=TIMEOUT_S) as (door, _):
            admitted = await ask(door, API_KEY)
            server.send(harm)
            with pytest.raises(LedgerDown, match="limits") as down:
                await ask(door, API_KEY)
            assert down.value.retry_after_s
            with pytest.raises(LedgerDown, match="limits"):
                await door.charge(admitted, Cost(2))
            with pytest.raises(LedgerDown, match="limits"):
                await door.status(admitted)
            await door.admit({"x-api-key": API_KEY.decode()}, PEER, "search")  # unlimited
            assert door.state().limits == "down"
            mend(server, harm)
            await until_shared(door, API_KEY)

    asyncio.run(scenario())


@harms
def test_door_store_gone_open_limits_count_here_and_say_so(
    server: RedisServer, harm: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        clock, rules = Clock(), limited(5, fail_mode="open")
        async with opened(server, rules, timeout_s=TIMEOUT_S, clock=clock) as (door, _):
            first = await ask(door, API_KEY)
            assert (first.is_local, door.state().limits) == (False, "shared")
            server.send(harm)
            admitted = [await ask(door, API_KEY) for _ in range(5)]
            assert all(each.is_local for each in admitted)
            assert [each.allowance.remaining for each in admitted] == [4, 3, 2, 1, 0]
            with pytest.raises(RateLimited):
                await ask(door, API_KEY)
            assert door.state().limits == "local"
            assert [row.allowance.remaining for row in await door.status(admitted[0])] == [0]
            clock.now += 12.0
            await ask(door, API_KEY)
            mend(server, harm)
            await until_shared(door, API_KEY)

    with caplog.at_level(logging.INFO, logger="ragrelay"):
        asyncio.run(scenario())
    lines = [record.getMessage() for record in caplog.records]
    assert lines.count("cannot be counted in Redis") == 1
    assert lines.count("counted in Redis again") == 1


@harms
def test_door_store_gone_wrong_keys_are_counted_here(
    server: RedisServer, harm: signal.Signals
) -> None:
    async def scenario() -> None:
        rules = Rules(failures_per_minute=2)
        async with opened(server, rules, timeout_s=TIMEOUT_S) as (door, _):
            await ask(door, API_KEY)
            assert door.state().wrong_keys == "shared"
            server.send(harm)
            for expected in (Unauthorized, Unauthorized, RateLimited):
                with pytest.raises(expected):
                    await ask(door, "a guess")
            assert door.state().wrong_keys == "local"

    asyncio.run(scenario())


@harms
def test_door_store_gone_token_corrections_are_lost_and_counted(
    server: RedisServer, harm: signal.Signals
) -> None:
    async def scenario() -> None:
        rules = Rules(limits={"query": Limit(0, 1000)}, fail_mode="open")
        async with opened(server, rules, timeout_s=TIMEOUT_S) as (door, _):
            shared = await ask(door, API_KEY)
            server.send(harm)
            door.correct_soon(shared, 500)
            await door.close()
            assert door.state().lost_corrections == 1
            local = await door.admit({"x-api-key": API_KEY.decode()}, PEER, "query", Cost(1, 900))
            await door.correct(local, 100)
            again = await door.admit({"x-api-key": API_KEY.decode()}, PEER, "query", Cost(1, 0))
            assert again.allowance.remaining >= 900
            assert door.state().lost_corrections == 1

    asyncio.run(scenario())


def test_door_key_that_changed_just_before_the_store_went_serves_no_more(
    server: RedisServer,
) -> None:
    async def scenario() -> None:
        async with opened(server, timeout_s=TIMEOUT_S) as (door, keys):
            made = await keys.create(SPEC)
            await ask(door, made.key.text())
            await keys.revoke(made.key.id)

            class Dying:
                """Dies between the trip that tells of the change and the reading of the record."""

                def __init__(self, redis) -> None:
                    self._redis = redis

                def __getattr__(self, name: str):
                    return getattr(self._redis, name)

                async def execute_command(self, *args, **options):
                    server.kill()
                    return await self._redis.execute_command(*args, **options)

            door._counting._calls.redis = Dying(door._counting._calls.redis)
            for _ in range(2):
                with pytest.raises(KeysDown):
                    await ask(door, made.key.text())

    asyncio.run(scenario())


def test_door_store_out_of_memory_keeps_keys_and_their_revocation(server: RedisServer) -> None:
    async def scenario() -> None:
        async with opened(server, Rules(failures_per_minute=1)) as (door, keys):
            kept, gone = [await keys.create(SPEC) for _ in range(2)]
            for made in (kept, gone):
                await ask(door, made.key.text())
            await keys._calls.redis.config_set("maxmemory", "1")
            await ask(door, kept.key.text())
            await keys.revoke(gone.key.id)
            with pytest.raises(Unauthorized):
                await ask(door, gone.key.text())
            assert door.state().keys == "shared"
            for expected in (Unauthorized, RateLimited):
                with pytest.raises(expected):
                    await ask(door, "a guess")
            assert door.state().wrong_keys == "local"

    asyncio.run(scenario())


@pytest.mark.parametrize("fail_mode", ["closed", "open"])
def test_door_store_out_of_memory_limits_follow_the_fail_mode(
    server: RedisServer, fail_mode: str
) -> None:
    async def scenario() -> None:
        async with opened(server, limited(2, fail_mode=fail_mode)) as (door, keys):
            redis = keys._calls.redis
            await ask(door, API_KEY)
            await redis.config_set("maxmemory", "1")
            if fail_mode == "closed":
                with pytest.raises(LedgerDown, match="limits"):
                    await ask(door, API_KEY)
                assert door.state().limits == "down"
            else:
                for _ in range(2):
                    assert (await ask(door, API_KEY)).is_local
                with pytest.raises(RateLimited):
                    await ask(door, API_KEY)
                assert door.state().limits == "local"
            await redis.config_set("maxmemory", "0")
            assert not (await ask(door, API_KEY)).is_local
            assert door.state().limits == "shared"

    asyncio.run(scenario())


def test_door_store_restarted_knows_what_it_knew(server: RedisServer) -> None:
    async def scenario() -> None:
        async with opened(server, limited(1)) as (door, keys):
            made, revoked = await keys.create(SPEC), await keys.create(SPEC)
            await ask(door, made.key.text())
            await keys.revoke(revoked.key.id)
            server.kill()
            server.start()
            await keys._calls.redis.connection_pool.disconnect()
            with pytest.raises(RateLimited):
                await ask(door, made.key.text())
            with pytest.raises(Unauthorized):
                await ask(door, revoked.key.text())

    asyncio.run(scenario())
