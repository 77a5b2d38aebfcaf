"""A slow engine, and flights that share its answers."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator

from api.cache.entries import CacheKey
from api.cache.flights import Flights
from api.errors import EngineFailed

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
