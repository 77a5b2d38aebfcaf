"""A broadcast keeps events for any number of readers, wherever each of them is."""

import asyncio
from collections.abc import Awaitable, Callable

from api.broadcast import Broadcast

STOPPED = RuntimeError("stopped")


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))


async def read(events: Broadcast[int], n: int = 0) -> list[int]:
    got: list[int] = []
    while new := await events.after(n + len(got)):
        got += new
    return got


async def produce(events: Broadcast[int], *, fail: bool = False) -> None:
    with events.producing(STOPPED):
        for n in range(5):
            events.append(n)
            await asyncio.sleep(0)
        if fail:
            raise ValueError("broken")


def test_readers_get_all_events_from_where_they_are() -> None:
    async def scenario() -> None:
        events: Broadcast[int] = Broadcast()
        early = asyncio.create_task(read(events))
        await asyncio.gather(produce(events), early)
        assert early.result() == await read(events) == [0, 1, 2, 3, 4]
        assert await read(events, 3) == [3, 4]
        assert await read(events, 5) == await read(events, 9) == []
        assert (len(events), events.has_ended, events.error) == (5, True, None)

    run(scenario)


def test_error_is_kept_and_goes_no_further() -> None:
    async def scenario() -> None:
        events: Broadcast[int] = Broadcast()
        reading = asyncio.create_task(read(events))
        await produce(events, fail=True)
        assert await reading == [0, 1, 2, 3, 4]
        assert isinstance(events.error, ValueError)

    run(scenario)


def test_cancelled_producer_wakes_the_readers() -> None:
    async def scenario() -> None:
        events: Broadcast[int] = Broadcast()

        async def wait_for_ever() -> None:
            with events.producing(STOPPED):
                await asyncio.Event().wait()

        producing, reading = asyncio.create_task(wait_for_ever()), asyncio.create_task(read(events))
        await asyncio.sleep(0)
        producing.cancel()
        assert await reading == []
        assert events.error is STOPPED
        assert producing.cancelled() or producing.cancelling()

    run(scenario)


def test_wake_ends_the_wait_and_not_the_reading() -> None:
    async def scenario() -> None:
        events: Broadcast[int] = Broadcast()
        left, woken = (asyncio.create_task(events.after(0)) for _ in range(2))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        events.wake()
        assert await woken == []
        events.append(7)
        assert await events.after(0) == [7]

    run(scenario)
