"""Poll the ledger for how the budgets stand, so that metrics and health need not ask."""

import asyncio
from collections.abc import Sequence

from api.background import Background
from api.ledger.ledger import Ledger
from api.ledger.types import LedgerDown, LedgerScope, ScopeState
from api.logs import logger

WATCH_S = 5.0


class BudgetWatch:
    """Keeps the states of a few scopes fresh, so that they can be read without a trip.

    Every reservation, granted or refused, brings them up to date as well.
    """

    def __init__(
        self, ledger: Ledger, scopes: Sequence[LedgerScope], *, every_s: float = WATCH_S
    ) -> None:
        self._ledger = ledger
        self._scopes = scopes
        self._every_s = every_s
        self._background = Background("budget watch")

    @property
    def states(self) -> list[ScopeState]:
        return [self._ledger.breaker.latest(scope) for scope in self._scopes]

    def start(self) -> None:
        self._background.start(self._run())

    async def close(self) -> None:
        await self._background.stop()

    async def _run(self) -> None:
        is_checked = False
        while True:
            try:
                await self._ledger.state(self._scopes)
                if not is_checked:
                    await self._check_server()
                    is_checked = True
            except LedgerDown:
                pass  # the store has said so
            except Exception:  # a bug must not end the watch
                logger.exception("budget watch failed")
            await asyncio.sleep(self._every_s)

    async def _check_server(self) -> None:
        if await self._ledger.evicts():
            logger.warning("ledger may be evicted: its server needs maxmemory-policy noeviction")
