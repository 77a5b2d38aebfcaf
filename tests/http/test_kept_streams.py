"""Streams that are kept: bounded, forgotten in time, told when they are stopped."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

import pytest

from api.answering.events import Event, Sources, Token
from api.errors import EngineFailed, Invalid, NotFound, RagError
from api.http.kept_streams import MAX_BYTES, KeptStream, KeptStreams, event_number
from api.runtime.drain import Drain


async def tokens(*texts: str, every: float = 0.0) -> AsyncGenerator[Event]:
    yield Sources([])
    for text in texts:
        await asyncio.sleep(every)
        yield Token(text)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 20))


async def read_all(streams: KeptStreams, kept: KeptStream, sent: int = 0) -> list[Event]:
    async with aclosing(streams.read(kept, sent)) as events:
        return [event async for event in events]


OWNER = ("public", "")


def test_streams_are_bounded_and_ended_ones_make_room() -> None:
    async def scenario() -> None:
        streams = KeptStreams(Drain(), keep_s=60, max_streams=2)
        ended = streams.keep(tokens("a"), OWNER, "r1")
        open_one = streams.keep(tokens("a", every=60), OWNER, "r2")
        assert ended is not None and open_one is not None
        await read_all(streams, ended)
        newest = streams.keep(tokens("a", every=60), OWNER, "r3")
        assert newest is not None and len(streams) == 2
        with pytest.raises(NotFound):
            streams.find(ended.id, OWNER)
        begun = tokens("a")
        assert streams.keep(begun, OWNER, "r4") is None
        assert [event async for event in begun] == [Sources([]), Token("a")]
        await streams.close()
        assert len(streams) == 0

    run(scenario)


def test_ended_stream_that_is_read_makes_no_room() -> None:
    async def scenario() -> None:
        streams = KeptStreams(Drain(), keep_s=60, max_streams=1)
        kept = streams.keep(tokens("a"), OWNER, "r")
        assert kept is not None
        async with aclosing(streams.read(kept, 0)) as reading:
            await anext(reading)
            await asyncio.sleep(0.05)
            assert kept.events.has_ended
            assert streams.keep(tokens(), OWNER, "r") is None
        assert streams.keep(tokens(), OWNER, "r") is not None
        await streams.close()

    run(scenario)


def test_stream_longer_than_its_bound_breaks_off() -> None:
    async def scenario() -> None:
        streams = KeptStreams(Drain(), keep_s=60)
        piece = "é" * 50_000
        kept = streams.keep(tokens(*[piece] * 20), OWNER, "r")
        assert kept is not None
        got = []
        with pytest.raises(EngineFailed):
            async for one in streams.read(kept, 0):
                got.append(one)
        assert len(got) == 1 + MAX_BYTES // (2 * 50_000 + 100)
        await streams.close()

    run(scenario)


def test_stream_nobody_ever_reads_is_forgotten() -> None:
    closed = []

    async def events() -> AsyncGenerator[Event]:
        try:
            yield Sources([])
            await asyncio.sleep(60)
        finally:
            closed.append("closed")

    async def scenario() -> None:
        streams = KeptStreams(Drain(), keep_s=0.05)
        kept = streams.keep(events(), OWNER, "r")
        assert kept is not None and kept.task is not None
        await asyncio.wait([kept.task], timeout=10)
        assert closed == ["closed"]
        assert len(streams) == 0

    run(scenario)


def test_stream_that_is_read_outlives_its_time() -> None:
    async def scenario() -> None:
        streams = KeptStreams(Drain(), keep_s=0.05)
        kept = streams.keep(tokens("a", "b", "c", every=0.1), OWNER, "r")
        assert kept is not None
        assert len(await read_all(streams, kept)) == 4
        assert streams.find(kept.id, OWNER) is kept
        await streams.close()

    run(scenario)


def test_reader_of_a_stopped_stream_is_told() -> None:
    async def scenario() -> None:
        streams = KeptStreams(Drain(), keep_s=60)
        kept = streams.keep(tokens("a", every=60), OWNER, "r")
        assert kept is not None
        reading = asyncio.create_task(read_all(streams, kept))
        await asyncio.sleep(0.05)
        await streams.close()
        with pytest.raises(RagError):
            await reading

    run(scenario)


def test_event_number_is_that_of_the_header() -> None:
    assert (event_number(None), event_number(""), event_number("17")) == (0, 0, 17)
    with pytest.raises(Invalid):
        event_number("seventeen")
