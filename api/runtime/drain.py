"""Stop without losing an answer: open answers finish, late ones are told, nothing new begins.

The server waits here before it closes its listeners, so that health checks and refusals are
answered to the end.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from api.errors import ShuttingDown

TOLD_S = 5.0
"""How long answers that were told to end may take to say so and give back what they hold."""
STEP_S = 0.02


class Drain:
    def __init__(self) -> None:
        self.started = False
        self.n_open = 0
        """Answers under way."""
        self._over: asyncio.Event | None = None

    def begin(self) -> None:
        """From now on nothing new begins. May be called from a signal handler."""
        self.started = True

    @contextmanager
    def answering(self) -> Iterator[None]:
        self.n_open += 1
        try:
            yield
        finally:
            self.n_open -= 1

    async def over(self) -> ShuttingDown:
        """Wait until the time for open answers is up; the error that they end with."""
        await self._event().wait()
        return ShuttingDown("this instance is shutting down, ask again")

    async def finish(self, wait_s: float, *, is_hurried: Callable[[], bool]) -> None:
        """Return when no answer is open any more; after `wait_s` the rest is told to end."""
        self.begin()
        await self._until_idle(wait_s, is_hurried)
        self._event().set()
        await self._until_idle(TOLD_S, is_hurried)

    async def _until_idle(self, wait_s: float, is_hurried: Callable[[], bool]) -> None:
        clock = asyncio.get_running_loop().time
        until = clock() + wait_s
        # Polled: a signal handler may hurry us.
        while self.n_open and clock() < until and not is_hurried():  # noqa: ASYNC110
            await asyncio.sleep(STEP_S)

    def _event(self) -> asyncio.Event:
        if self._over is None:
            self._over = asyncio.Event()
        return self._over
