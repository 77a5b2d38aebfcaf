"""Equal and like questions at the same time share one answer."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator

from api.cache.entries import CacheKey
from tests.cache.entries import vector
from tests.cache.flying import Engine, asked, flying, listen, whole


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
