"""Keep a process's copy of the cache up to date: load the store's entries, then follow its log.

All of it in the background. The log is polled and not blocked on, because the client's socket
timeout is shorter than any useful block.
"""

import asyncio

from api.background import Background
from api.cache.entries import PREFIX, entry_key
from api.cache.local_copy import LocalCopy
from api.cache.store import PAGE, START, Added, Blocked, LogId, Store
from api.logs import logger
from api.stores.calls import StoreDown, StoreRefused

POLL_S = 0.25
LOG_PAGE = 200
MAX_LOADED = 200_000


class Replica:
    """Follows `store` in `copy`; of a larger store it loads `max_loaded` entries at the start."""

    def __init__(self, store: Store, copy: LocalCopy, *, max_loaded: int = MAX_LOADED) -> None:
        self._store = store
        self._copy = copy
        self._max_loaded = max_loaded
        self._last: LogId = START
        self._run_id = ""
        self._is_synced = False
        self._has_synced = False
        self._background = Background("cache replica")

    def start(self) -> None:
        self._background.start(self._run())

    async def close(self) -> None:
        await self._background.stop()

    async def _run(self) -> None:
        while True:
            pause_s = POLL_S
            try:
                if not self._is_synced:
                    await self._sync()
                elif await self._follow():
                    pause_s = 0.0
            except (StoreDown, StoreRefused):
                pass  # the breaker says so, once
            except Exception:  # a bug must not end replication
                logger.exception("cache replica failed")
                self._is_synced = False
                pause_s = 1.0
            await asyncio.sleep(pause_s)

    async def _sync(self) -> None:
        """Take over what the store holds.

        After a gap in the log, entries it no longer holds may have been deleted meanwhile and go.
        A server that started anew lost them without anyone's wish: they stay.
        """
        run_id = await self._store.run_id()
        end = await self._store.end_of_log()
        self._copy.begin_sync()
        await self._replay_blocks(end)
        confirmed: set[str] = set()
        async for keys in self._store.scan(self._max_loaded):
            await self._load(keys)
            confirmed.update(key.decode().removeprefix(PREFIX) for key in keys)
        has_restarted = self._has_synced and bool(run_id) and run_id != self._run_id
        is_whole = len(confirmed) < self._max_loaded
        self._copy.end_sync(None if has_restarted else confirmed, is_whole=is_whole)
        self._last, self._run_id = end, run_id
        self._is_synced = self._has_synced = True

    async def _replay_blocks(self, end: LogId) -> None:
        since = START
        while since != end:
            rows = await self._store.read_log(since, LOG_PAGE)
            for _, logged in rows:
                if logged is not None and isinstance(logged.change, Blocked):
                    self._copy.apply(logged.change)
            if not rows or rows[-1][0] == since:
                return
            since = rows[-1][0]

    async def _follow(self) -> bool:
        """Apply what is new; whether more may wait."""
        rows = await self._store.read_log(self._last, LOG_PAGE)
        if self._last != START:
            if not rows or rows[0][0] != self._last:
                self._is_synced = False
                return True
            rows = rows[1:]
        foreign = [row.change for _, row in rows if row is not None and row.by != self._store.name]
        added = [change.id for change in foreign if isinstance(change, Added)]
        for change in foreign:
            if not isinstance(change, Added):
                self._copy.apply(change)
        # After the deletions: what is read now is what the store holds after all of them.
        await self._load([entry_key(id).encode() for id in added])
        if rows:
            self._last = rows[-1][0]
        return len(rows) >= LOG_PAGE - 1

    async def _load(self, keys: list[bytes]) -> None:
        for start in range(0, len(keys), PAGE):
            for value in await self._store.get_many(keys[start : start + PAGE]):
                if value is not None:
                    self._copy.load(value)
            await asyncio.sleep(0)  # requests go first
