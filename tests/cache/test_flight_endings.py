"""How a flight ends: listeners leave, the engine fails, the service stops."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.cache.flights import Flights
from api.errors import DeadlineExceeded, EngineFailed, ShuttingDown
from tests.cache.flying import Engine, asked, flying, listen, whole
from tests.support.waiting import until


def test_flight_leader_leaves_followers_go_on() -> None:
    async def scenario() -> None:
        flights, engine = flying(), Engine(pause_s=0.03)
        leader = asyncio.create_task(listen(flights, asked("why?"), engine))
        await asyncio.sleep(0.01)
        follower = asyncio.create_task(listen(flights, asked("why?"), engine))
        await asyncio.sleep(0.05)
        leader.cancel()
        assert await follower == (whole("why?"), "coalesced")
        assert engine.calls == engine.finished == {"why?": 1}

    asyncio.run(scenario())


def test_flight_nobody_listens_closes_the_engine() -> None:
    async def scenario() -> None:
        flights: Flights[str] = Flights(threshold=0.9)
        engine = Engine(pause_s=10.0)
        listeners = [asyncio.create_task(listen(flights, asked("why?"), engine)) for _ in range(3)]
        await until(lambda: engine.calls["why?"] == 1)
        for listener in listeners:
            listener.cancel()
        await until(lambda: engine.closed["why?"] == 1)  # long before it would have answered
        await until(lambda: not flights._tasks)  # let go by a callback, a turn after the close
        assert len(flights) == 0

    asyncio.run(scenario())


def test_flight_last_listener_leaving_at_the_end_does_not_cut_it() -> None:
    async def scenario() -> None:
        flights, engine = flying(linger_s=0.2), Engine()
        async with flights.join(asked("why?"), engine.start("why?")) as seat:
            async for event in seat:
                if event == whole("why?")[-1]:
                    break
        await until(lambda: engine.closed["why?"] == 1)
        assert engine.finished["why?"] == 1

    asyncio.run(scenario())


def test_flight_asked_again_while_lingering_is_joined() -> None:
    async def scenario() -> None:
        flights, engine = flying(linger_s=0.1), Engine(pause_s=0.03)
        first = asyncio.create_task(listen(flights, asked("why?"), engine))
        await asyncio.sleep(0.02)
        first.cancel()
        await asyncio.sleep(0.02)
        assert await listen(flights, asked("why?"), engine) == (whole("why?"), "coalesced")
        await asyncio.sleep(0.15)
        assert engine.calls == engine.finished == {"why?": 1}

    asyncio.run(scenario())


def test_flight_follower_has_its_own_deadline() -> None:
    async def scenario() -> None:
        flights, engine = flying(), Engine(pause_s=0.05)
        leader = asyncio.create_task(listen(flights, asked("why?"), engine))
        await asyncio.sleep(0.01)
        soon = asyncio.get_running_loop().time() + 0.08
        with pytest.raises(DeadlineExceeded):
            await listen(flights, asked("why?"), engine, deadline=soon)
        assert (await leader)[0] == whole("why?")

    asyncio.run(scenario())


def test_flight_deadline_that_passes_while_a_reader_is_slow_still_ends_its_wait() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        never = asyncio.Event()

        async def one_then_nothing() -> AsyncGenerator[str]:
            yield "one"
            await never.wait()

        flights = flying()
        soon = loop.time() + 0.05
        async with flights.join(asked("why?"), one_then_nothing, deadline=soon) as seat:
            events = aiter(seat)
            assert await anext(events) == "one"
            await asyncio.sleep(0.1)  # the timer has fired: nothing will wake the next wait
            with pytest.raises(DeadlineExceeded):
                async with asyncio.timeout(5):
                    await anext(events)
        await flights.close()

    asyncio.run(scenario())


def test_flight_failed_before_the_first_event_is_tried_once_more() -> None:
    async def scenario() -> None:
        flights, engine = flying(), Engine(fail_at=0)
        heard = await asyncio.gather(
            *(listen(flights, asked("why?"), engine) for _ in range(50)), return_exceptions=True
        )
        assert {type(one) for one in heard} == {EngineFailed}
        assert engine.calls == {"why?": 2}
        assert len(flights) == len(flights._retries) == 0

    asyncio.run(scenario())


def test_flight_second_attempt_serves_all_who_waited() -> None:
    async def scenario() -> None:
        flights, bad, good = flying(), Engine(fail_at=0), Engine()
        leader = asyncio.create_task(listen(flights, asked("why?"), bad))
        await asyncio.sleep(0)
        heard = await asyncio.gather(*(listen(flights, asked("why?"), good) for _ in range(20)))
        assert [events for events, _ in heard] == [whole("why?")] * 20
        assert Counter(kind for _, kind in heard) == {"none": 1, "coalesced": 19}
        assert (bad.calls, good.calls) == ({"why?": 1}, {"why?": 1})
        with pytest.raises(EngineFailed):
            await leader

    asyncio.run(scenario())


def test_flight_failed_in_the_middle_fails_for_all() -> None:
    async def scenario() -> None:
        flights, engine = flying(), Engine(fail_at=2)
        heard: list[list[str]] = []

        async def one() -> None:
            events: list[str] = []
            heard.append(events)
            async with flights.join(asked("why?"), engine.start("why?")) as seat:
                async for event in seat:
                    events.append(event)

        errors = await asyncio.gather(*(one() for _ in range(10)), return_exceptions=True)
        assert {type(error) for error in errors} == {EngineFailed}
        assert heard == [whole("why?")[:2]] * 10
        assert engine.calls == {"why?": 1}

    asyncio.run(scenario())


def test_flights_closed_end_with_shutting_down() -> None:
    async def scenario() -> None:
        flights, engine = flying(), Engine(pause_s=10.0)
        listeners = [asyncio.create_task(listen(flights, asked("why?"), engine)) for _ in range(3)]
        await until(lambda: engine.calls["why?"] == 1)
        await flights.close()
        heard = await asyncio.gather(*listeners, return_exceptions=True)
        assert {type(one) for one in heard} == {ShuttingDown}
        assert engine.closed == engine.calls == {"why?": 1}

    asyncio.run(scenario())


clients = st.lists(
    st.tuples(
        st.sampled_from(["a?", "b?"]),
        st.integers(0, 6),  # comes after so many ticks
        st.one_of(st.none(), st.integers(0, 8)),  # leaves after so many
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(clients, st.one_of(st.none(), st.integers(0, 4)))
def test_flights_any_coming_and_going_leaves_nothing_behind(plan, fail_at) -> None:
    """Who stays hears all or an error; nothing runs twice at once; all is closed at the end."""
    tick_s = 0.002

    async def scenario() -> None:
        flights, engine = flying(linger_s=0.004), Engine(pause_s=tick_s, fail_at=fail_at)

        async def client(question: str, comes: int, leaves: int | None) -> None:
            await asyncio.sleep(comes * tick_s)
            hearing = asyncio.create_task(listen(flights, asked(question), engine))
            if leaves is not None:
                await asyncio.sleep(leaves * tick_s)
                hearing.cancel()
            with contextlib.suppress(EngineFailed, asyncio.CancelledError):
                events, _ = await hearing
                assert events == whole(question)
                assert fail_at is None

        await asyncio.gather(*(client(*one) for one in plan))
        await until(lambda: not flights._tasks)
        assert engine.closed == engine.calls
        assert len(flights) == len(flights._indexes) == len(flights._retries) == 0

    asyncio.run(scenario())
