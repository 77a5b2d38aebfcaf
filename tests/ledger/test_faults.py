"""The ledger while its server is frozen, killed, full or emptied: the declared answer each time."""

import asyncio
import logging

import pytest

from api.ledger.ledger import FailMode, Ledger
from api.ledger.types import BudgetExhausted, LedgerDown, LedgerScope
from tests.ledger.ledgers import amounts, away, delivered, run, settle, state_of
from tests.support.servers import RedisServer

BUDGET = LedgerScope("global", 1000, "month")


async def reserve(ledger: Ledger, name: str, amount: int) -> bool:
    """True where the reservation was made here, in the book."""
    return (await ledger.reserve(name, [BUDGET], amount, 600)).is_local


async def know_scripts(ledger: Ledger) -> None:
    """Have the server know the scripts, so that what reaches it frozen is run when it wakes."""
    await settle(ledger, await ledger.reserve("first", [BUDGET], 1, 600), 0)


@pytest.mark.parametrize("harm", ["freeze", "kill"])
def test_closed_ledger_refuses_while_down_and_loses_nothing(
    server: RedisServer, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="ragrelay")

    async def scenario(ledger: Ledger) -> None:
        settled = await ledger.reserve("r1", [BUDGET], 100, 600)
        waiting = await ledger.reserve("r2", [BUDGET], 200, 600)
        open_still = await ledger.reserve("r3", [BUDGET], 300, 600)
        await settle(ledger, settled, 50)
        with away(server, harm, ledger):
            for n in range(5):
                with pytest.raises(LedgerDown):
                    await ledger.reserve(f"no{n}", [BUDGET], 10, 600)
            with pytest.raises(LedgerDown):
                await ledger.state([BUDGET])
            outcome = ledger.settle_soon(waiting, 70)
            await asyncio.wait({outcome}, timeout=0.3)
            assert not outcome.done()
            assert (ledger.is_down, ledger.is_open_mode) == (True, False)
        await delivered(ledger)
        assert await amounts(ledger, BUDGET) == (120, 300)
        await settle(ledger, open_still, 300)
        assert await amounts(ledger, BUDGET) == (420, 0)
        assert ledger.settlements.dropped == 0

    run(server, scenario)
    told = [r.message for r in caplog.records if r.message.startswith("ledger")]
    assert told == ["ledger is down", "ledger is back"]


@pytest.mark.parametrize("harm", ["freeze", "kill"])
def test_open_ledger_counts_for_itself_and_folds_once(server: RedisServer, harm: str) -> None:
    async def scenario(ledger: Ledger) -> None:
        spent = await ledger.reserve("r1", [BUDGET], 600, 600)
        await settle(ledger, spent, 600)
        await ledger.state([BUDGET])
        with away(server, harm, ledger):
            hold = await ledger.reserve("r2", [BUDGET], 300, 600)
            assert (hold.is_local, ledger.is_open_mode) == (True, True)
            with pytest.raises(BudgetExhausted):  # the limit holds on top of what was spent before
                await ledger.reserve("r3", [BUDGET], 101, 600)
            assert (await settle(ledger, hold, 250)).how == "held"
            assert (await settle(ledger, hold, 250)).how == "again"
            assert ledger.book.unfolded == 250
            later = await ledger.reserve("r4", [BUDGET], 100, 600)
            state = await state_of(ledger, BUDGET)
            assert (state.spent, state.reserved, state.remaining) == (850, 100, 50)
        await delivered(ledger)
        assert await amounts(ledger, BUDGET) == (850, 0)
        assert not ledger.is_open_mode
        assert await reserve(ledger, "r5", 20) is False
        await settle(ledger, later, 90)  # made in the book, and folded after it
        await delivered(ledger)
        assert await amounts(ledger, BUDGET) == (940, 20)

    run(server, scenario, fail_mode="open")


@pytest.mark.parametrize("fail_mode", ["closed", "open"])
def test_full_server_refuses_to_reserve_and_takes_settlements(
    server: RedisServer, fail_mode: FailMode
) -> None:
    async def scenario(ledger: Ledger) -> None:
        settled = await ledger.reserve("r1", [BUDGET], 100, 600)
        released = await ledger.reserve("r2", [BUDGET], 200, 600)
        redis = ledger._store._calls.redis
        await redis.config_set("maxmemory", 1)
        if fail_mode == "closed":
            with pytest.raises(LedgerDown):
                await reserve(ledger, "r3", 10)
        else:
            assert await reserve(ledger, "r3", 10) is True
        assert not ledger._store._calls.breaker.is_open  # it answers, so it is asked
        assert (await settle(ledger, settled, 60)).how == "held"
        assert (await settle(ledger, released, 0)).how == "held"
        assert await amounts(ledger, BUDGET) == (60, 0)
        await redis.config_set("maxmemory", 0)
        assert await reserve(ledger, "r4", 20) is False
        assert await amounts(ledger, BUDGET) == (60, 20)

    run(server, scenario, fail_mode=fail_mode)


def test_ledger_on_an_evicting_server_says_so_and_charges_what_it_lost(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        assert not await ledger.evicts()
        redis = ledger._store._calls.redis
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        assert await ledger.evicts()
        hold = await ledger.reserve("r1", [BUDGET], 100, 600)
        await redis.config_set("maxmemory", 1)
        with pytest.raises(LedgerDown):  # everything is evicted, and it is full all the same
            await reserve(ledger, "r2", 10)
        assert await redis.keys("*") == []
        await redis.config_set("maxmemory", 0)
        assert (await settle(ledger, hold, 60)).how == "unknown"
        assert await amounts(ledger, BUDGET) == (60, 0)

    run(server, scenario)


def test_reserve_without_an_answer_holds_nothing_afterwards(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        await know_scripts(ledger)
        with away(server, "freeze", ledger):
            for n in range(3):  # the server will read them when it wakes, one at least
                with pytest.raises(LedgerDown):
                    await ledger.reserve(f"lost{n}", [BUDGET], 100, 600)
            assert ledger.settlements.n_waiting >= 1
        await delivered(ledger)
        assert await amounts(ledger, BUDGET) == (0, 0)

    run(server, scenario)


def test_reserve_that_arrives_after_its_release_holds_nothing(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        ledger._forget("r1")
        await delivered(ledger)
        reply = await ledger._store.reserve("r1", [BUDGET], 100, 600)
        assert reply.how == "known"
        assert await amounts(ledger, BUDGET) == (0, 0)

    run(server, scenario)


def test_reserve_cancelled_holds_nothing_afterwards(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        await know_scripts(ledger)
        server.freeze()
        task = asyncio.create_task(ledger.reserve("r1", [BUDGET], 100, 600))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.thaw()
        await delivered(ledger)
        assert await amounts(ledger, BUDGET) == (0, 0)

    run(server, scenario)


def test_settle_cancelled_is_delivered_all_the_same(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", [BUDGET], 100, 600)
        server.freeze()
        task = asyncio.create_task(settle(ledger, hold, 60))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.thaw()
        await delivered(ledger)
        assert await amounts(ledger, BUDGET) == (60, 0)

    run(server, scenario)


def test_settlement_that_nobody_awaits_any_more_is_delivered_once(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", [BUDGET], 100, 600)
        ledger.settle_soon(hold, 60).cancel()
        await delivered(ledger)
        assert await amounts(ledger, BUDGET) == (60, 0)

    run(server, scenario)


def test_close_delivers_what_waits(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        holds = [await ledger.reserve(f"r{n}", [BUDGET], 2, 600) for n in range(200)]
        outcomes = [ledger.settle_soon(hold, 1) for hold in holds]
        await ledger.close(20)
        assert [outcome.result().how for outcome in outcomes] == ["held"] * 200
        assert await amounts(ledger, BUDGET) == (200, 0)
        assert await ledger.settle_soon(holds[0], 1) is None  # too late
        assert ledger.settlements.dropped == 1

    run(server, scenario)


def test_close_without_a_server_ends_and_counts_what_is_lost(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(ledger: Ledger) -> None:
        holds = [await ledger.reserve(f"r{n}", [BUDGET], 2, 600) for n in range(5)]
        server.kill()
        ledger._store._calls._timeout_s = 0.1
        local = await ledger.reserve("local", [BUDGET], 9, 600)
        ledger.settle_soon(local, 9)
        outcomes = [ledger.settle_soon(hold, 1) for hold in holds]
        n_releases = ledger.settlements.n_waiting - 5
        await ledger.close(0.2)
        assert [outcome.result() for outcome in outcomes] == [None] * 5
        assert ledger.settlements.dropped == 5 + n_releases
        facts = vars(caplog.records[-1])["facts"]
        assert (facts["settlements"], facts["unfolded_micro_eur"]) == (5 + n_releases, 9)

    run(server, scenario, fail_mode="open")


def test_settlements_above_the_bound_push_out_the_oldest(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        holds = [await ledger.reserve(f"r{n}", [BUDGET], 10, 600) for n in range(30)]
        outcomes = [ledger.settle_soon(hold, 1) for hold in holds]  # no await: none is sent yet
        assert ledger.settlements.dropped == 20
        assert [outcome.result() for outcome in outcomes[:20]] == [None] * 20
        await delivered(ledger)
        assert await amounts(ledger, BUDGET) == (10, 200)  # these will be charged whole

    run(server, scenario, max_waiting=10)


def test_settlements_survive_a_bug_in_one_trip(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(ledger: Ledger) -> None:
        hold = await ledger.reserve("r1", [BUDGET], 10, 600)
        redis = ledger._store._calls.redis
        ours, redis.evalsha = redis.evalsha, broken_once(redis.evalsha)
        assert (await settle(ledger, hold, 5)).how == "held"
        assert redis.evalsha is not ours

    run(server, scenario)
    assert "settling failed" in [record.message for record in caplog.records]


def broken_once(evalsha):
    calls = []

    async def send(*args):
        calls.append(args)
        if len(calls) == 1:
            raise AttributeError("a bug")
        return await evalsha(*args)

    return send
