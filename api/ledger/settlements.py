"""Deliver what was spent to the ledger in the background, until the ledger has taken it.

Answers never wait for it. What it cannot deliver it keeps and tries again: in batches, oldest
first, each as often as it takes, because the ledger charges a settlement once. The queue is
bounded; what is pushed out of it is counted, and charged whole when its lease ends.
"""

import asyncio
from collections import deque

from api.background import Background
from api.ledger.local import Book
from api.ledger.store import LedgerStore
from api.ledger.types import LedgerDown, Settled, Settlement
from api.logs import logger

MAX_WAITING = 20_000
BATCH = 64
"""Settlements in one trip: some 2 ms of the server's CPU."""
RETRY_S = 0.25

Outcome = asyncio.Future[Settled | None]


class Settlements:
    """A queue of settlements, and the task that delivers them in batches."""

    def __init__(
        self,
        store: LedgerStore,
        book: Book,
        *,
        max_waiting: int = MAX_WAITING,
        retry_s: float = RETRY_S,
    ) -> None:
        self.dropped = 0
        """Never delivered: pushed out by newer ones, or left at the end."""
        self.overshoots = 0
        """Charged above what was held: the engine made more than it was asked for."""
        self._store = store
        self._book = book
        self._max_waiting = max_waiting
        self._retry_s = retry_s
        self._waiting: deque[tuple[Settlement, Outcome]] = deque()
        self._in_hand: list[tuple[Settlement, Outcome]] = []
        self._arrived = asyncio.Event()
        self._is_closing = False
        self._is_closed = False
        self._background = Background("ledger settlements")

    @property
    def n_waiting(self) -> int:
        return len(self._waiting) + len(self._in_hand)

    def start(self) -> None:
        self._background.start(self._run())

    def add(self, settlement: Settlement) -> Outcome:
        """Queue a settlement; its outcome is None if it had to be dropped."""
        outcome: Outcome = asyncio.get_running_loop().create_future()
        if self._is_closed:
            self._drop(outcome)
            return outcome
        if len(self._waiting) >= self._max_waiting:
            self._drop(self._waiting.popleft()[1])
        self._waiting.append((settlement, outcome))
        self._arrived.set()
        return outcome

    def enter(self, settled: Settled) -> Outcome:
        """Take note of what was settled in the book, which is to be folded now."""
        outcome: Outcome = asyncio.get_running_loop().create_future()
        self._end(outcome, settled)
        self._arrived.set()
        return outcome

    async def close(self, deadline_s: float) -> None:
        """Deliver what waits, as far as the deadline allows."""
        self._is_closing = True
        self._arrived.set()
        await self._background.stop(grace_s=deadline_s)
        self._is_closed = True
        lost = {"settlements": self.n_waiting, "unfolded_micro_eur": self._book.unfolded}
        for _, outcome in (*self._in_hand, *self._waiting):
            self._drop(outcome)
        self._in_hand.clear()
        self._waiting.clear()
        if any(lost.values()):
            logger.error("ledger closed with money untold", extra={"facts": lost})

    async def _run(self) -> None:
        while self._has_work() or not self._is_closing:
            try:
                if not self._has_work():
                    self._arrived.clear()
                    await self._arrived.wait()
                    continue
                await self._deliver()
            except LedgerDown:
                await asyncio.sleep(self._retry_s)
            except Exception:  # a bug must not end all settling
                logger.exception("settling failed")
                await asyncio.sleep(self._retry_s)

    def _has_work(self) -> bool:
        return bool(self._waiting or self._in_hand or self._book.has_unfolded)

    async def _deliver(self) -> None:
        while len(self._in_hand) < BATCH and self._waiting:
            self._in_hand.append(self._waiting.popleft())
        in_hand = [settlement for settlement, _ in self._in_hand]
        folds = self._book.freeze(BATCH)
        outcomes = await self._store.settle([*in_hand, *folds])
        self._book.folded()
        for (_, outcome), settled in zip(self._in_hand, outcomes, strict=False):
            self._end(outcome, settled)
        self._in_hand.clear()

    def _end(self, outcome: Outcome, settled: Settled) -> None:
        self.overshoots += settled.overshoot > 0
        if not outcome.done():
            outcome.set_result(settled)

    def _drop(self, outcome: Outcome) -> None:
        self.dropped += 1
        if not outcome.done():
            outcome.set_result(None)
