"""Read timeout of an engine's stream: end a read when no token has come in time."""

import asyncio

import aiohttp


class Silence:
    """Ends a read that waits beyond `limit` or `deadline`, both times of the event loop.

    One timer a stream that looks again when it fires; a timeout around each read would cost
    6 µs a token.
    """

    def __init__(self, content: aiohttp.StreamReader, limit: float, deadline: float) -> None:
        self.limit = limit
        self._content = content
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_at(min(limit, deadline), self._look)

    def _look(self) -> None:
        due = min(self.limit, self._deadline)
        if self._loop.time() >= due:
            self._content.set_exception(TimeoutError())
        else:
            self._timer = self._loop.call_at(due, self._look)

    def stop(self) -> None:
        self._timer.cancel()
