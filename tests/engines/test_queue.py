"""The queue before the engine, on a virtual clock: overload, fairness, lanes, leaks."""

import asyncio
import random
import statistics
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.admission.refusals import Overloaded
from api.engines.queue import MAX_RETRY_S, MIN_RETRY_S, EngineQueue, Lane
from tests.support.virtual_loop import run_virtually

SLOTS = 4
SERVICE_S = 1.0
CAPACITY = SLOTS / SERVICE_S
"""Answers a second."""


def now() -> float:
    return asyncio.get_running_loop().time()


def queue_of(slots: int = SLOTS, waiting: int = 16, wait_s: float = 5.0) -> EngineQueue:
    return EngineQueue(max_concurrent=slots, max_waiting=waiting, wait_s=wait_s)


def assert_idle(queue: EngineQueue) -> None:
    assert (queue.in_use, queue.waiting) == (0, 0)
    assert not any(line._by_subject for line in queue._lines.values())


class Load:
    """Requests of many callers, and what became of them."""

    def __init__(self, queue: EngineQueue, service_s: float = SERVICE_S) -> None:
        self.queue = queue
        self.service_s = service_s
        self.served: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.refused_after: list[float] = []
        self.waits: dict[str, list[float]] = {}
        self.most_in_use = 0

    async def request(self, subject: str, lane: Lane = "interactive") -> None:
        asked = now()
        try:
            permit = await self.queue.enter(subject, lane)
        except Overloaded:
            self.refused[subject] += 1
            self.refused_after.append(now() - asked)
            return
        with permit:
            self.waits.setdefault(subject, []).append(permit.waited_s)
            self.most_in_use = max(self.most_in_use, self.queue.in_use)
            await asyncio.sleep(self.service_s)
        self.served[subject] += 1

    async def arrive(self, rate: float, for_s: float, subject: Callable[[int], str]) -> None:
        """Send requests at random times, whatever becomes of those before."""
        dice, tasks, n = random.Random(5), [], 0
        end = now() + for_s
        while now() < end:
            tasks.append(asyncio.create_task(self.request(subject(n))))
            n += 1
            await asyncio.sleep(dice.expovariate(rate))
        await asyncio.gather(*tasks)


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
        with pytest.raises(Overloaded) as refused:
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
        with pytest.raises(Overloaded):
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
            with pytest.raises(Overloaded):
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
        with pytest.raises(Overloaded):
            await greedy[2]
        with pytest.raises(Overloaded):
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
            except Overloaded:
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


def test_permit_given_back_twice_gives_back_one() -> None:
    async def main() -> None:
        queue = queue_of(slots=2)
        permits = [await queue.enter("a") for _ in range(2)]
        permits[0].release()
        permits[0].release()
        assert queue.in_use == 1
        with permits[1]:
            permits[1].release()
        assert_idle(queue)

    run_virtually(main())


def test_permit_is_given_back_when_its_answer_fails() -> None:
    async def main() -> None:
        queue = queue_of()
        with pytest.raises(ValueError, match="engine"):
            with await queue.enter("a"):
                raise ValueError("engine")
        assert_idle(queue)

    run_virtually(main())


def test_queue_cancelled_in_the_moment_of_its_turn_passes_the_permit_on() -> None:
    async def main() -> None:
        queue = queue_of(slots=1)
        first = await queue.enter("x")
        gone, next_one = [asyncio.create_task(queue.enter(name)) for name in "ab"]
        await asyncio.sleep(0)
        first.release()  # its turn has come…
        gone.cancel()  # …and it leaves before it knows
        permit = await next_one
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert (queue.in_use, queue.waiting) == (1, 0)
        permit.release()
        assert_idle(queue)

    run_virtually(main())


def test_queue_permit_is_not_given_to_who_has_just_left() -> None:
    async def main() -> None:
        queue = queue_of(slots=1)
        first = await queue.enter("x")
        gone, next_one = [asyncio.create_task(queue.enter(name)) for name in "ab"]
        await asyncio.sleep(0)
        gone.cancel()
        first.release()  # before the cancelled task has run
        (await next_one).release()
        assert_idle(queue)

    run_virtually(main())


events = st.lists(
    st.tuples(
        st.sampled_from(["enter", "cancel", "release", "tick", "both"]),
        st.integers(0, 7),
        st.sampled_from(["interactive", "batch"]),
        st.sampled_from([0.0, 0.3, 1.0, 6.0]),
    ),
    max_size=80,
)


@given(events, st.integers(1, 3), st.integers(0, 5))
@settings(deadline=None)
def test_queue_permits_never_leak_whatever_happens(history, slots: int, waiting: int) -> None:
    async def main() -> None:
        queue = queue_of(slots=slots, waiting=waiting, wait_s=2.0)
        tasks: list[asyncio.Task] = []

        def held() -> list:
            done = [task for task in tasks if task.done() and not task.cancelled()]
            permits = [task.result() for task in done if task.exception() is None]
            return [permit for permit in permits if permit._queue is not None]

        for action, n, lane, pause_s in history:
            if action == "enter":
                tasks.append(asyncio.create_task(queue.enter(f"key{n % 3}", lane)))
            if action in ("cancel", "both") and tasks:
                tasks[n % len(tasks)].cancel()
            if action in ("release", "both") and held():
                held()[n % len(held())].release()
            if action == "tick":
                await asyncio.sleep(pause_s)
            assert 0 <= queue.in_use <= slots and 0 <= queue.waiting <= waiting
            assert len(held()) <= queue.in_use
        for _ in range(len(tasks) + 1):
            await asyncio.sleep(0.1)
            for permit in held():
                permit.release()
        await asyncio.sleep(3.0)  # whoever still waits has had their time
        for permit in held():
            permit.release()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert all(task.done() for task in tasks)
        assert_idle(queue)

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


def test_queue_cancelled_waiter_leaves_no_trace() -> None:
    async def main() -> None:
        queue = queue_of(slots=1, waiting=2)
        permit = await queue.enter("x")
        waiting = [asyncio.create_task(queue.enter("a")) for _ in range(2)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert queue.waiting == 0
        others = [asyncio.create_task(queue.enter(name)) for name in "bc"]
        await asyncio.sleep(0)
        permit.release()
        for task in others:
            (await task).release()
        assert_idle(queue)
        timers = [each for each in asyncio.get_running_loop()._scheduled if not each.cancelled()]
        assert timers == []

    run_virtually(main())
