import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.cache.entries import CacheKey
from api.cache.flights import Flights
from api.errors import DeadlineExceeded, EngineFailed, ShuttingDown
from tests.cache.conftest import vector
from tests.cache.test_store import until

P = "p" * 32
WORDS = [f"w{n} " for n in range(5)]


class Engine:
    """Answers each question with its own words, one at a time; counts what it was asked."""

    def __init__(self, *, pause_s: float = 0.01, fail_at: int | None = None) -> None:
        self.pause_s = pause_s
        self.fail_at = fail_at
        self.calls: Counter[str] = Counter()
        self.closed: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()

    def start(self, question: str):
        def stream() -> AsyncGenerator[str]:
            return self._stream(question)

        return stream

    async def _stream(self, question: str) -> AsyncGenerator[str]:
        self.calls[question] += 1
        try:
            for n, word in enumerate(WORDS):
                await asyncio.sleep(self.pause_s)
                if n == self.fail_at:
                    raise EngineFailed(f"failed for {question}")
                yield f"{question}: {word}"
            self.finished[question] += 1
        finally:
            self.closed[question] += 1


def whole(question: str) -> list[str]:
    return [f"{question}: {word}" for word in WORDS]


async def listen(
    flights: Flights, asked: CacheKey, engine: Engine, **options
) -> tuple[list[str], str]:
    async with flights.join(asked, engine.start(asked.question), **options) as seat:
        events = [event async for event in seat]
        return events, seat.kind


def asked(question: str, embedding=None, **options) -> CacheKey:
    return CacheKey.of(P, question, embedding, **options)


def flying(**options) -> Flights:
    return Flights(**{"threshold": 0.92, "linger_s": 0.05} | options)


def test_flight_a_hundred_equal_questions_are_one_call() -> None:
    async def scenario() -> None:
        flights, engine = flying(), Engine()
        heard = await asyncio.gather(*(listen(flights, asked("why?"), engine) for _ in range(100)))
        assert [events for events, _ in heard] == [whole("why?")] * 100
        assert Counter(kind for _, kind in heard) == {"none": 1, "coalesced": 99}
        assert engine.calls == {"why?": 1}
        assert len(flights) == 0

    asyncio.run(scenario())


def test_flight_paraphrases_share_and_traps_do_not() -> None:
    """100 at once, cold: as many engine calls as distinct questions."""
    same = ["How do I pay a bill?", "How can I pay a bill?", "Hi, how do I pay a bill please?"]
    traps = [
        "How do I not pay a bill?",
        "How do I pay 2 bills?",
        "How do I pay a bill from Peru?",
        "How do I pay an invoice to Carla?",
    ]

    async def scenario() -> None:
        flights, engine = flying(), Engine()
        asking = [
            asked(question, vector(2 + n, near=1, cosine=0.98))
            for n, question in enumerate(same * 20 + traps * 10)
        ]
        heard = await asyncio.gather(*(listen(flights, one, engine) for one in asking))
        assert sum(engine.calls.values()) == 1 + len(traps)
        for one, (events, _) in zip(asking, heard, strict=True):
            answered = events[0].partition(":")[0]
            assert answered in (same if one.question in same else [one.question])
        assert flights.coalesced == 95

    asyncio.run(scenario())


def test_flight_other_partition_history_or_block_flies_alone() -> None:
    async def scenario() -> None:
        engine, near = Engine(), vector(2, near=1, cosine=0.98)
        flights = flying(may_share=lambda id, question: "blocked" not in question)
        asking = [
            asked("How do I pay?", vector(1)),
            CacheKey.of("q" * 32, "How do I pay?", vector(1)),
            asked("How can I pay?", near, history="h"),
            asked("How can I pay blocked?", near),
            asked("How can I pay?", vector(3)),
        ]
        await asyncio.gather(*(listen(flights, one, engine) for one in asking))
        assert sum(engine.calls.values()) == 5

    asyncio.run(scenario())


def test_flight_late_follower_replays_then_goes_on_live() -> None:
    may_go_on = asyncio.Event()

    async def pausing() -> AsyncGenerator[str]:
        yield "w0"
        yield "w1"
        await may_go_on.wait()
        yield "w2"

    async def scenario() -> None:
        flights = flying()
        async with flights.join(asked("why?"), pausing) as leader:
            led = leader.__aiter__()
            assert [await anext(led), await anext(led)] == ["w0", "w1"]
            async with flights.join(asked("why?"), pausing) as seat:
                events = seat.__aiter__()
                async with asyncio.timeout(10):
                    assert [await anext(events), await anext(events)] == ["w0", "w1"]
                may_go_on.set()
                assert [event async for event in events] == ["w2"]
            assert [event async for event in led] == ["w2"]

    asyncio.run(scenario())


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
        flights, engine = Flights(threshold=0.9), Engine(pause_s=10.0)
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
