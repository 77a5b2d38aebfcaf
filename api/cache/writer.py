"""Write cache entries to Redis in the background; answers never wait for it.

The queue is bounded and drops its oldest; what is dropped is counted. A store that is away is
waited for, writes in hand.
"""

import asyncio
import contextlib
from collections import deque

from api.background import Background
from api.cache.entries import entry_key
from api.cache.store import Added, Store, Write
from api.logs import logger
from api.stores.calls import StoreDown, StoreRefused

MAX_WAITING = 1000
BATCH = 32
TOUCH_S = 1.0
RETRY_S = 0.25
WAIT_S = 1.0


class Writer:
    """A queue of writes, and the task that sends them in batches."""

    def __init__(self, store: Store, *, max_waiting: int = MAX_WAITING) -> None:
        self.dropped = 0
        """Never written: pushed out by newer ones, refused, or left at the end."""
        self._store = store
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[Write, asyncio.Future[None] | None]] = deque()
        self._in_hand: list[tuple[Write, asyncio.Future[None] | None]] = []
        self._touched: set[str] = set()
        self._arrived = asyncio.Event()
        self._background = Background("cache writer")
        self._is_closing = False

    def start(self) -> None:
        self._background.start(self._run())

    def submit(self, write: Write) -> None:
        """Queue a write and return at once."""
        self._queue(write, None)

    async def submit_and_wait(self, write: Write) -> None:
        """Write after all that waits. Raises StoreDown when that does not happen at once."""
        if self._store.breaker.is_open:
            raise StoreDown("the store does not answer")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue(write, done)
        try:
            async with asyncio.timeout(WAIT_S):
                await done
        except TimeoutError:
            raise StoreDown("the store is slow") from None

    def touch(self, id: str) -> None:
        """Tell the store within a second that an entry was served from this process."""
        if not self._touched:
            self._arrived.set()
        self._touched.add(id)

    def pending(self) -> set[str]:
        """Ids of entries that wait to be written."""
        return {
            write.change.id
            for write, _ in (*self._in_hand, *self._waiting)
            if isinstance(write.change, Added)
        }

    async def close(self, deadline_s: float) -> None:
        """Write what waits, as far as the deadline allows."""
        self._is_closing = True
        self._arrived.set()
        await self._background.stop(grace_s=deadline_s)
        for _, done in (*self._in_hand, *self._waiting):
            self.dropped += 1
            _fail(done, StoreDown("closed"))
        self._in_hand.clear()
        self._waiting.clear()

    def _queue(self, write: Write, done: asyncio.Future[None] | None) -> None:
        if len(self._waiting) >= self._max_waiting:
            _, pushed_out = self._waiting.popleft()
            self.dropped += 1
            _fail(pushed_out, StoreDown("too many writes wait"))
        self._waiting.append((write, done))
        self._arrived.set()

    async def _run(self) -> None:
        while not (self._is_closing and not (self._waiting or self._in_hand or self._touched)):
            try:
                await self._wait_for_work()
                await self._write_batch()
                await self._send_touches()
            except StoreDown:
                await asyncio.sleep(RETRY_S)
            except Exception:  # a bug must not end all writing
                logger.exception("cache writer failed")
                self.dropped += len(self._in_hand)
                self._in_hand.clear()
                await asyncio.sleep(RETRY_S)

    async def _wait_for_work(self) -> None:
        if not (self._has_writes() or self._touched):
            self._arrived.clear()
            await self._arrived.wait()
        if self._has_writes():
            return
        self._arrived.clear()  # touches alone are gathered for a while
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TOUCH_S):
                await self._arrived.wait()

    def _has_writes(self) -> bool:
        return bool(self._waiting or self._in_hand or self._is_closing)

    async def _write_batch(self) -> None:
        while len(self._in_hand) < BATCH and self._waiting:
            self._in_hand.append(self._waiting.popleft())
        if not self._in_hand:
            return
        try:
            taken = await self._store.write([write for write, _ in self._in_hand])
        except StoreDown as down:
            # Someone waits to hear of these; the others are tried again.
            for _, done in self._in_hand:
                _fail(done, down)
            self._in_hand = [(write, done) for write, done in self._in_hand if done is None]
            raise
        except StoreRefused:
            taken = [False] * len(self._in_hand)
        for (_, done), is_taken in zip(self._in_hand, taken, strict=True):
            self.dropped += not is_taken
            if not is_taken:
                _fail(done, StoreDown("the store refused it"))
            elif done is not None and not done.done():
                done.set_result(None)
        self._in_hand.clear()

    async def _send_touches(self) -> None:
        """Serving from memory must not make the hottest entries look the coldest."""
        if not self._touched or self._waiting:
            return
        touched, self._touched = self._touched, set()
        with contextlib.suppress(StoreRefused):
            await self._store.write([Write([("TOUCH", *map(entry_key, sorted(touched)))])])


def _fail(done: asyncio.Future[None] | None, error: Exception) -> None:
    if done is not None and not done.done():
        done.set_exception(error)
