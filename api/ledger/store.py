"""The ledger's calls to Redis or Valkey: run a script, decode its reply, raise LedgerDown.

Knows whether the ledger takes what it is sent, and says once when that changes.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from api.ledger.scripts import KEYS, RESERVE, SETTLE, STATE, TwoForms
from api.ledger.types import Counts, LedgerDown, LedgerScope, Settled, Settlement, Window
from api.logs import logger
from api.stores.calls import RedisCalls, StoreDown, StoreRefused

Row = tuple[str, int, int, int]
Clock = Callable[[], float]
"""Seconds since the epoch."""


class ReserveReply(msgspec.Struct, frozen=True, array_like=True):
    how: Literal["held", "refused", "known"]
    now_ms: int
    lease_ends_ms: int
    refused_by: int
    """Place of the scope that refuses for longest, counted from 1."""
    retry_ms: int
    rows: tuple[Row, ...]


class StateReply(msgspec.Struct, frozen=True, array_like=True):
    now_ms: int
    rows: tuple[Row, ...]


_reserve_reply = msgspec.msgpack.Decoder(ReserveReply)
_settle_reply = msgspec.msgpack.Decoder(list[Settled])
_state_reply = msgspec.msgpack.Decoder(StateReply)


class LedgerStore:
    """All calls raise LedgerDown. `clock` None takes the server's time, as everything but a test
    does."""

    def __init__(self, calls: RedisCalls, *, clock: Clock | None = None) -> None:
        self.is_down = False
        self._calls = calls
        self._clock = clock
        self._takes_flags = True

    async def reserve(
        self, hold_id: str, scopes: Sequence[LedgerScope], amount: int, lease_s: float
    ) -> ReserveReply:
        args = [hold_id, amount, round(lease_s * 1000)]
        for scope in scopes:
            args += [scope.name, scope.period, scope.limit]
        return _reserve_reply.decode(await self._run(RESERVE, args))

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        args: list[Any] = []
        for settlement in settlements:
            windows = [window.key for window in settlement.windows]
            args += [settlement.id, settlement.actual, settlement.forget_at_ms, len(windows)]
            args += windows
        return _settle_reply.decode(await self._run(SETTLE, args))

    async def state(self, scopes: Sequence[LedgerScope]) -> StateReply:
        args = [part for scope in scopes for part in (scope.name, scope.period)]
        return _state_reply.decode(await self._run(STATE, args))

    async def policy(self) -> str:
        """What the server does when it is full; empty where it does not tell."""
        try:
            info = await self._calls.call(lambda: self._calls.redis.info("memory"))
        except StoreRefused:
            return ""
        except StoreDown as exc:
            raise LedgerDown("the ledger is down") from exc
        return str(info.get("maxmemory_policy", ""))

    async def _run(self, script: TwoForms, args: Sequence[Any]) -> Any:
        now = "" if self._clock is None else round(self._clock() * 1000)
        try:
            reply = await self._run_form(script, [now, *args])
        except StoreDown as exc:
            self._note(exc)
            # A call that was not sent has no error below it.
            raise LedgerDown("the ledger is down", may_hold=exc.__cause__ is not None) from exc
        except StoreRefused as exc:
            self._note(exc)
            raise LedgerDown("the ledger takes no money") from exc
        self._note(None)
        return reply

    async def _run_form(self, script: TwoForms, args: Sequence[Any]) -> Any:
        if self._takes_flags:
            try:
                return await self._calls.run(script.flagged, KEYS, args)
            except StoreRefused as exc:
                if "unexpected symbol near '#'" not in str(exc):  # what Redis 6 makes of flags
                    raise
                self._takes_flags = False
        return await self._calls.run(script.plain, KEYS, args)

    def _note(self, error: StoreDown | StoreRefused | None) -> None:
        if self.is_down == (error is not None):
            return
        self.is_down = error is not None
        if error is None:
            logger.info("ledger is back")
        else:
            facts = {"error": type(error).__name__, "reason": str(error)[:200]}
            logger.warning("ledger is down", extra={"facts": facts})


def counts_of(rows: Sequence[Row]) -> list[Counts]:
    return [
        Counts(Window.of_key(key), spent, reserved, max(1, smallest))
        for key, spent, reserved, smallest in rows
    ]
