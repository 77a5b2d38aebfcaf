"""One task that starts, and stops with its owner."""

import asyncio
from collections.abc import Coroutine
from typing import Any

AGAIN_S = 1.0


class Background:
    """`name` is the task's, as debuggers show it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._task: asyncio.Task[None] | None = None

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` from now on, in place of what ran before."""
        if self._task is not None:
            self._task.cancel()
        self._task = asyncio.create_task(work, name=self._name)

    async def stop(self, *, grace_s: float = 0.0) -> None:
        """Return once nothing runs: what has not ended by itself within `grace_s` is cancelled.

        An exception that ended the task is not raised here: asyncio logs it.
        """
        task = self._task
        if task is None:
            return
        if grace_s:
            await asyncio.wait({task}, timeout=grace_s)
        # More than once: redis-py sends under asyncio.wait_for, which before Python 3.12 loses a
        # cancellation that meets its end: https://github.com/python/cpython/issues/86296
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=AGAIN_S)
