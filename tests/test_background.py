"""A background task ends when its owner says so, whatever it is doing."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from api import background
from api.background import Background


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))


async def never(started: list[str], name: str) -> None:
    started.append(name)
    try:
        await asyncio.Event().wait()
    finally:
        started.remove(name)


def test_stop_ends_the_task_and_may_come_first_or_twice() -> None:
    async def scenario() -> None:
        running: list[str] = []
        task = Background("work")
        await task.stop()
        task.start(never(running, "a"))
        await asyncio.sleep(0)
        assert running == ["a"]
        await task.stop()
        assert running == []
        await task.stop()

    run(scenario)


def test_start_replaces_what_runs() -> None:
    async def scenario() -> None:
        running: list[str] = []
        task = Background("work")
        for name in "ab":
            task.start(never(running, name))
            await asyncio.sleep(0.01)
        assert running == ["b"]
        await task.stop()
        assert running == []

    run(scenario)


def test_stop_lets_the_task_end_by_itself_within_its_grace() -> None:
    async def scenario() -> None:
        done: list[str] = []

        async def work() -> None:
            await asyncio.sleep(0.02)
            done.append("whole")

        task = Background("work")
        task.start(work())
        await task.stop(grace_s=20.0)
        assert done == ["whole"]

    run(scenario)


def test_stop_cancels_again_what_swallows_a_cancellation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "AGAIN_S", 0.02)

    async def scenario() -> None:
        n_swallowed = 0

        async def deaf_twice() -> None:
            nonlocal n_swallowed
            while True:
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    n_swallowed += 1
                    if n_swallowed == 3:
                        raise

        task = Background("work")
        task.start(deaf_twice())
        await asyncio.sleep(0)
        await task.stop()
        assert n_swallowed == 3

    run(scenario)


def test_stop_that_is_cancelled_is_cancelled() -> None:
    async def scenario() -> None:
        async def slow_to_end() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0.2)

        task = Background("work")
        task.start(slow_to_end())
        await asyncio.sleep(0)
        stopping = asyncio.create_task(task.stop())
        await asyncio.sleep(0.01)
        stopping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stopping
        await task.stop()

    run(scenario)
