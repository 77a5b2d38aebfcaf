"""The queue before the engine, on a virtual clock: overload, fairness, lanes, leaks."""

import asyncio
import statistics

import pytest

from api.engines.queue import MAX_RETRY_S, MIN_RETRY_S, Lane
from api.errors import EngineOverloaded
from tests.engines.queue_load import CAPACITY, SERVICE_S, SLOTS, Load, assert_idle, now, queue_of
from tests.support.virtual_loop import run_virtually


def goodput(load_factor: float, waiting: int, wait_s: float) -> tuple[float, Load]:
    """Return answers a second over five minutes, and the load."""

    async def main() -> tuple[float, Load]:
        load = Load(queue_of(waiting=waiting, wait_s=wait_s))
        await load.arrive(load_factor * CAPACITY, 300.0, lambda n: f"key{n}")
        assert_idle(load.queue)
        return load.served.total() / now(), load

    return run_virtually(main())


@pytest.mark.parametrize(("waiting", "wait_s"), [(16, 5.0), (1000, 2.0), (4, 30.0)])
def test_queue_three_times_overloaded_keeps_its_goodput(waiting: int, wait_s: float) -> None:
    peak = max(goodput(factor, waiting, wait_s)[0] for factor in (0.8, 1.0, 1.2))
    overloaded, load = goodput(3.0, waiting, wait_s)
    assert overloaded >= 0.9 * peak
    assert overloaded >= 0.9 * CAPACITY
    assert load.most_in_use == SLOTS
    # Refusals come at once; what is let in to wait is served in time.
    assert load.refused.total() > 1000
    at_once = sum(after == 0 for after in load.refused_after)
    assert at_once >= 0.98 * len(load.refused_after)
    assert max(load.refused_after) <= wait_s + 1e-9
    assert max(max(waits) for waits in load.waits.values()) <= wait_s + 1e-9


def test_queue_refusal_says_when_to_come_back() -> None:
    async def main() -> None:
        load = Load(queue_of(waiting=40, wait_s=30.0), service_s=2.0)  # two answers a second
        everyone = [asyncio.create_task(load.request(f"key{i}")) for i in range(44)]
        await asyncio.sleep(18.5)  # 36 served, 4 before the engine, 4 wait
        everyone += [asyncio.create_task(load.request(f"late{i}")) for i in range(36)]
        await asyncio.sleep(0)
        with pytest.raises(EngineOverloaded) as refused:
            await load.queue.enter("too late")
        assert refused.value.retry_after_s == pytest.approx(41 / 2, rel=0.15)
        await asyncio.gather(*everyone)

    run_virtually(main())


@pytest.mark.parametrize(("service_s", "bound"), [(0.001, MIN_RETRY_S), (3600.0, MAX_RETRY_S)])
def test_queue_retry_after_is_bounded(service_s: float, bound: float) -> None:
    async def main() -> None:
        load = Load(queue_of(slots=1, waiting=50, wait_s=1e6), service_s=service_s)
        everyone = [asyncio.create_task(load.request(f"key{i}")) for i in range(51)]
        await asyncio.sleep(30 * service_s)
        assert load.queue.retry_after_s() == bound
        await asyncio.gather(*everyone)

    run_virtually(main())


def test_queue_waits_no_longer_than_its_deadline() -> None:
    async def main() -> None:
        queue = queue_of(slots=1, wait_s=3.0)
        permit = await queue.enter("a")
        started = now()
        with pytest.raises(EngineOverloaded):
            await queue.enter("b")
        assert now() - started == pytest.approx(3.0)
        assert queue.waiting == 0
        permit.release()
        assert_idle(queue)

    run_virtually(main())


def test_queue_serves_subjects_in_turn_and_each_in_order() -> None:
    async def main() -> None:
        queue, order = queue_of(slots=1), []
        first = await queue.enter("x")

        async def wait(subject: str, n: int) -> None:
            with await queue.enter(subject):
                order.append(f"{subject}{n}")

        waiting = [asyncio.create_task(wait("a", n)) for n in range(4)]
        waiting += [asyncio.create_task(wait("b", n)) for n in range(2)]
        waiting += [asyncio.create_task(wait("c", 0))]
        await asyncio.sleep(0)
        first.release()
        await asyncio.gather(*waiting)
        assert order == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]
        assert_idle(queue)

    run_virtually(main())


def test_queue_greedy_key_does_not_starve_another() -> None:
    async def main() -> None:
        load = Load(queue_of(waiting=16))
        greedy = asyncio.create_task(load.arrive(20 * CAPACITY, 300.0, lambda n: "greedy"))
        modest = asyncio.create_task(load.arrive(0.2 * CAPACITY, 300.0, lambda n: "modest"))
        await asyncio.gather(greedy, modest)
        assert load.refused["modest"] == 0
        assert load.served["modest"] > 0.9 * 0.2 * CAPACITY * 300
        assert statistics.median(load.waits["modest"]) <= SERVICE_S
        assert max(load.waits["modest"]) <= 3 * SERVICE_S  # its own bursts
        assert load.served["greedy"] > 0.5 * CAPACITY * 300  # the rest is for who asks

    run_virtually(main())


def test_queue_full_of_equals_refuses_the_newcomer_at_once() -> None:
    async def main() -> None:
        queue = queue_of(slots=1, waiting=3)
        first = await queue.enter("x")
        waiting = [asyncio.create_task(queue.enter(name)) for name in "abc"]
        await asyncio.sleep(0)
        for name in "da":
            started = now()
            with pytest.raises(EngineOverloaded):
                await queue.enter(name)
            assert now() == started
        first.release()
        for task in waiting:
            (await task).release()
        assert_idle(queue)

    run_virtually(main())


def test_queue_full_the_one_with_more_than_its_share_makes_room() -> None:
    async def main() -> None:
        queue = queue_of(slots=1, waiting=3)
        first = await queue.enter("x")
        greedy = [asyncio.create_task(queue.enter("greedy")) for _ in range(3)]
        await asyncio.sleep(0)
        other = asyncio.create_task(queue.enter("other"))
        await asyncio.sleep(0)
        with pytest.raises(EngineOverloaded):
            await greedy[2]
        with pytest.raises(EngineOverloaded):
            await queue.enter("greedy")
        first.release()
        (await greedy[0]).release()
        (await other).release()
        (await greedy[1]).release()
        assert_idle(queue)

    run_virtually(main())


def test_queue_interactive_goes_before_batch_and_takes_its_place() -> None:
    async def main() -> None:
        queue, order = queue_of(slots=1, waiting=3), []
        first = await queue.enter("x")

        async def wait(name: str, lane: Lane) -> None:
            try:
                permit = await queue.enter(name, lane)
            except EngineOverloaded:
                order.append(f"{name} refused")
                return
            order.append(name)
            permit.release()

        waiting = [asyncio.create_task(wait(f"batch{n}", "batch")) for n in range(3)]
        await asyncio.sleep(0)
        waiting += [asyncio.create_task(wait("person", "interactive"))]
        await asyncio.sleep(0)
        waiting += [asyncio.create_task(wait("batch3", "batch"))]  # may not push anyone out
        await asyncio.sleep(0)
        first.release()
        await asyncio.gather(*waiting)
        served = [name for name in order if "refused" not in name]
        assert served[0] == "person" and len(served) == 3
        assert "batch3 refused" in order and len(order) == 5

    run_virtually(main())


def test_queue_slow_engine_leaves_no_small_queue_behind() -> None:
    async def main() -> None:
        queue = queue_of(slots=1, waiting=50, wait_s=100.0)
        slow = Load(queue, service_s=50.0)
        await asyncio.gather(*(slow.request(f"a{i}") for i in range(30)))
        assert queue.room() == 50  # no rate was seen: most left unserved
        load = Load(queue, service_s=4.0)
        await asyncio.gather(*(load.request(f"b{i}") for i in range(24)))
        assert queue.room() == 25
        quick = Load(queue, service_s=0.5)
        await asyncio.gather(*(quick.request(f"c{i}") for i in range(60)))
        assert queue.room() == 50

    run_virtually(main())


def test_queue_idle_time_says_nothing_about_the_engine() -> None:
    async def main() -> None:
        load = Load(queue_of(slots=1, waiting=50, wait_s=100.0))
        for _ in range(2):
            burst = [asyncio.create_task(load.request(f"a{i}")) for i in range(20)]
            await asyncio.sleep(5.0)
            assert load.queue.room() == 50
            await asyncio.gather(*burst)
            await asyncio.sleep(1000.0)
        assert load.refused.total() == 0

    run_virtually(main())
