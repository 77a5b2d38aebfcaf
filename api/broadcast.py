"""One producer's events, kept and replayed to many readers.

Each reader gets all of them from where it is, at its own pace: first what was kept, then what
comes. How the producer ended is kept as well, and is the same for all readers.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

E = TypeVar("E")


class Broadcast(Generic[E]):
    """The events so far, and how they ended; events are numbered from 1."""

    def __init__(self) -> None:
        self.has_ended = False
        self.error: Exception | None = None
        """What the producer raised; for readers to raise once they have read all."""
        self._events: list[E] = []
        self._waiting: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._events)

    @contextmanager
    def producing(self, stopped: Exception) -> Iterator[None]:
        """Keep how the block ends: what it raises goes to the readers and no further.

        A block that is cancelled leaves them `stopped`, and stays cancelled.
        """
        try:
            yield
        except asyncio.CancelledError:
            self.error = stopped
            raise
        except Exception as error:
            self.error = error
        finally:
            self.has_ended = True
            self.wake()

    def append(self, event: E) -> None:
        self._events.append(event)
        self.wake()

    async def after(self, n: int) -> list[E]:
        """Return the events after number `n`, as soon as there is one; none after the end.

        None as well for who is woken by `wake` before there is one: a timeout around each wait
        would cost more than the event, so readers with a deadline set one timer that wakes them.
        """
        if n >= len(self._events) and not self.has_ended:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
        return self._events[n:]

    def wake(self) -> None:
        """Let all who wait look again."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():  # its reader may have been cancelled
                waiter.set_result(None)
