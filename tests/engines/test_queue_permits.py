"""Permits of the engine's queue are given back, whoever leaves or fails."""

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines.queue_load import assert_idle, queue_of
from tests.support.virtual_loop import run_virtually


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
        loop: Any = asyncio.get_running_loop()
        timers = [each for each in loop._scheduled if not each.cancelled()]
        assert timers == []

    run_virtually(main())
