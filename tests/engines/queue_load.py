"""Load on the queue before the engine, on a virtual clock."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable

from api.engines.queue import EngineQueue, Lane
from api.errors import EngineOverloaded

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
        except EngineOverloaded:
            self.refused[subject] += 1
            self.refused_after.append(now() - asked)
            return
        with permit:
            self.waits.setdefault(subject, []).append(now() - asked)
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
