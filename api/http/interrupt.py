"""Run an answer until it ends, or stop it: its client has left, or the server shuts down.

It runs in the task of its request: one more for each costs as much as a cached answer.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]

WATCH_AFTER_S = 0.05
"""A cached answer is gone by then: only what lasts longer is watched for its client leaving."""
CLOSE_S = 5.0
"""How long an answer may take to give back what it holds, once stopped."""


class ClientGone(Exception):
    """The client closed its connection before the answer ended."""


End = Callable[[], Awaitable[BaseException]]
"""Waits for a reason to stop an answer, and returns it."""


class _Watch:
    """Cancels a task, until it ends, as soon as one of `ends` gives a reason."""

    def __init__(self, task: asyncio.Task[Any], ends: tuple[End, ...]) -> None:
        self.reason: BaseException | None = None
        self._task = task
        self._ends = ends
        self._watchers: list[asyncio.Future[BaseException]] = []
        self._timer = task.get_loop().call_later(WATCH_AFTER_S, self._begin)

    def close(self) -> None:
        self._timer.cancel()
        for watcher in self._watchers:
            watcher.remove_done_callback(self._stop)
            watcher.cancel()

    def _begin(self) -> None:
        self._watchers = [asyncio.ensure_future(end()) for end in self._ends]
        for watcher in self._watchers:
            watcher.add_done_callback(self._stop)

    def _stop(self, watcher: asyncio.Future[BaseException]) -> None:
        """Once more after a while: a library that awaits badly may swallow a cancellation."""
        self.reason = self.reason or watcher.result()
        self._timer.cancel()
        self._timer = self._task.get_loop().call_later(CLOSE_S, self._stop, watcher)
        self._task.cancel()


async def run_until(work: Awaitable[None], *ends: End) -> None:
    """Run `work` to its end, or stop it and raise the reason that one of `ends` gives.

    In this task: one more for each request costs as much as a cached answer. If we ourselves
    are cancelled (the server gives up), so is the work.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("an answer outside of a task. This is a bug.")
    n_cancels = task.cancelling()
    watch = _Watch(task, ends)
    try:
        await work
    except asyncio.CancelledError:
        if watch.reason is None:
            raise
    finally:
        watch.close()
    if watch.reason is not None:
        while task.cancelling() > n_cancels:
            task.uncancel()
        raise watch.reason


async def wait_for_disconnect(receive: Receive) -> ClientGone:
    while (await receive())["type"] != "http.disconnect":
        pass
    return ClientGone()
