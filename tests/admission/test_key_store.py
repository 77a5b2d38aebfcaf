"""The key store: made, found, listed, rotated, revoked, on real servers."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from api.admission import key_store
from api.admission.caller import KeyBudget, LimitOverride
from api.admission.key_store import KeysFull, KeyStore, UnknownKey, record_key
from api.admission.keys import KeyRecord, KeySpec, digest_of
from api.admission.refusals import KeysDown
from api.stores.calls import RedisCalls
from tests.admission.doors import with_calls
from tests.support.servers import RedisServer

SPEC = KeySpec(name="Anna")


def run(server: RedisServer, scenario: Callable[[KeyStore, RedisCalls], Awaitable[None]]) -> None:
    asyncio.run(with_calls(server, lambda calls: scenario(KeyStore(calls, pepper=b"p"), calls)))


def test_create_keeps_all_but_the_secret(either: RedisServer) -> None:
    async def scenario(keys: KeyStore, calls: RedisCalls) -> None:
        spec = KeySpec(
            name="Zoë's laptop",
            scopes=frozenset({"query", "ingest"}),
            tenant="acme",
            groups=("staff", "eu"),
            budgets=(KeyBudget("day", 1_500_000),),
            limits=(LimitOverride(route_class="query", requests=10, tokens=0),),
            expires_at=4e9,
        )
        made = await keys.create(spec)
        kept = await keys.get(made.key.id)
        assert kept == made.record
        for field in msgspec.structs.fields(KeySpec):
            assert getattr(kept, field.name) == getattr(spec, field.name)
        assert [d.digest for d in kept.digests] == [digest_of(made.key, b"p")]
        assert abs(kept.created_at - await keys.now()) < 60
        stored = str(await calls.redis.hgetall(record_key(made.key.id)))
        assert made.key.secret not in stored and made.key.text() not in stored

    run(either, scenario)


def test_create_out_of_bounds_is_refused(server: RedisServer) -> None:
    async def scenario(keys: KeyStore, calls: RedisCalls) -> None:
        with pytest.raises(ValueError, match=r"tenant"):
            await keys.create(KeySpec(name="a", tenant="no spaces"))
        assert await calls.redis.dbsize() == 0

    run(server, scenario)


def test_keys_thousand_are_listed_by_page_in_the_order_of_their_making(either: RedisServer) -> None:
    async def scenario(keys: KeyStore, calls: RedisCalls) -> None:
        await calls.redis.config_set("appendfsync", "no")
        made = [(await keys.create(KeySpec(name=f"k{i}"))).record for i in range(1000)]
        listed: list[KeyRecord] = []
        start, n_pages = 0, 0
        while start is not None:
            page = await keys.page(start)
            assert len(page.records) <= key_store.PAGE
            listed, start, n_pages = listed + page.records, page.next, n_pages + 1
        assert listed == made
        assert n_pages == 11
        assert (await keys.page(-5)).records == made[: key_store.PAGE]

    run(either, scenario)


def test_keys_are_bounded_and_forgotten_ones_make_room(either: RedisServer) -> None:
    async def scenario(_: KeyStore, calls: RedisCalls) -> None:
        keys = KeyStore(calls, max_keys=3)
        made = [await keys.create(SPEC) for _ in range(3)]
        with pytest.raises(KeysFull, match="3"):
            await keys.create(SPEC)
        await calls.redis.delete(record_key(made[1].key.id))
        assert len((await keys.page()).records) == 2
        fourth = await keys.create(SPEC)
        ids = [record.id for record in (await keys.page()).records]
        assert ids == [made[0].key.id, made[2].key.id, fourth.key.id]

    run(either, scenario)


def test_rotate_keeps_the_id_and_the_old_secret_for_the_grace(either: RedisServer) -> None:
    async def scenario(keys: KeyStore, calls: RedisCalls) -> None:
        first = await keys.create(SPEC)
        second = await keys.rotate(first.key.id, grace_s=60)
        now_s = await keys.now()
        assert second.key.id == first.key.id and second.key.secret != first.key.secret
        assert second.record.version != first.record.version
        old, new = keys.digest(first.key), keys.digest(second.key)
        assert second.record.admits(old, now_s + 50) and second.record.admits(new, now_s + 99)
        assert not second.record.admits(old, now_s + 61)
        third = await keys.rotate(first.key.id)  # two at most, and none without a grace
        assert [d.digest for d in third.record.digests] == [keys.digest(third.key)]
        assert await keys.get(first.key.id) == third.record

    run(either, scenario)


@pytest.mark.parametrize("grace_s", [-1, 31 * 86_400, float("nan")])
def test_rotate_grace_out_of_bounds_is_refused(server: RedisServer, grace_s: float) -> None:
    async def scenario(keys: KeyStore, calls: RedisCalls) -> None:
        made = await keys.create(SPEC)
        with pytest.raises(ValueError, match="grace"):
            await keys.rotate(made.key.id, grace_s=grace_s)

    run(server, scenario)


def test_revoke_ends_the_key_and_forgets_it_after_its_time(either: RedisServer) -> None:
    async def scenario(keys: KeyStore, calls: RedisCalls) -> None:
        made = await keys.create(SPEC)
        assert await calls.redis.ttl(record_key(made.key.id)) == -1
        revoked = await keys.revoke(made.key.id)
        assert revoked.state(revoked.revoked_at) == "revoked"
        assert revoked.version != made.record.version
        days = await calls.redis.ttl(record_key(made.key.id)) / 86_400
        assert days == pytest.approx(90, abs=0.1)
        assert (await keys.page()).records == [revoked]
        for change in (keys.revoke, keys.rotate):
            with pytest.raises(UnknownKey):
                await change(made.key.id)

    run(either, scenario)


@pytest.mark.parametrize("id", ["", "none", "a" * 10, "../" + "a" * 7, "a" * 9 + "\n"])
def test_key_that_is_not_there_is_unknown(server: RedisServer, id: str) -> None:
    async def scenario(keys: KeyStore, calls: RedisCalls) -> None:
        assert await keys.get(id) is None
        with pytest.raises(UnknownKey):
            await keys.revoke(id)

    run(server, scenario)


def test_edits_at_the_same_time_lose_nothing(either: RedisServer) -> None:
    async def scenario(keys: KeyStore, calls: RedisCalls) -> None:
        made = await keys.create(SPEC)
        rotations = [keys.rotate(made.key.id, grace_s=9) for _ in range(4)]
        rotated = await asyncio.gather(*rotations)
        # Each follows another one, the first of them the key as it was made.
        before = {each.record.digests[1].digest for each in rotated}
        assert len(before) == 4 and keys.digest(made.key) in before
        await keys.revoke(made.key.id)
        kept = await keys.get(made.key.id)
        assert kept.revoked_at is not None
        versions = [made.record.version, *(each.record.version for each in rotated), kept.version]
        assert len(set(versions)) == 6
        assert kept.digests in {each.record.digests for each in rotated}

    run(either, scenario)


def test_record_that_cannot_be_read_is_no_key(server: RedisServer, caplog) -> None:
    async def scenario(keys: KeyStore, calls: RedisCalls) -> None:
        made = await keys.create(SPEC)
        await calls.redis.hset(record_key(made.key.id), "record", '{"scopes": ["root"]}')
        assert await keys.get(made.key.id) is None
        assert (await keys.page()).records == []

    with caplog.at_level("ERROR", logger="ragrelay"):
        run(server, scenario)
    assert "key record cannot be read" in caplog.text


@pytest.mark.parametrize("harm", [signal.SIGSTOP, signal.SIGKILL])
def test_store_gone_is_keys_down_in_every_method(server: RedisServer, harm: signal.Signals) -> None:
    async def main() -> None:
        async def scenario(calls: RedisCalls) -> None:
            keys = KeyStore(calls)
            id = (await keys.create(SPEC)).key.id
            server.send(harm)
            for call in (
                lambda: keys.get(id),
                lambda: keys.create(SPEC),
                lambda: keys.page(),
                lambda: keys.rotate(id),
                lambda: keys.revoke(id),
            ):
                with pytest.raises(KeysDown, match="does not answer"):
                    await call()

        await with_calls(server, scenario, timeout_s=1.0)

    asyncio.run(main())


def test_store_out_of_memory_refuses_keys_but_a_revocation_holds(either: RedisServer) -> None:
    async def scenario(keys: KeyStore, calls: RedisCalls) -> None:
        id = (await keys.create(SPEC)).key.id
        await calls.redis.config_set("maxmemory", "1")
        for refused in (keys.create(SPEC), keys.rotate(id)):
            with pytest.raises(KeysDown, match="refuses"):
                await refused
        assert (await keys.revoke(id)).revoked_at is not None
        assert await keys.get(id) is None

    run(either, scenario)


def test_keys_survive_a_killed_server(either: RedisServer) -> None:
    async def scenario(keys: KeyStore, calls: RedisCalls) -> None:
        made = await keys.create(SPEC)
        revoked = (await keys.create(SPEC)).key.id
        await keys.revoke(revoked)
        either.kill()
        either.start()
        await calls.redis.connection_pool.disconnect()
        assert await keys.get(made.key.id) == made.record
        assert (await keys.get(revoked)).revoked_at is not None

    run(either, scenario)
