"""Admission: who sends a request, and whether its rate limits leave room; one trip to Redis.

Where limits are off, nobody has to be asked without auth or for AUTH_API_KEY: `admit_at_once`
says so without a wait. In an unlimited class only keys of the store cost a trip. A key's first
sight in a process costs a second one.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from api.admission.caller import PUBLIC, SETTINGS_KEY, Caller, Limit, RouteClass
from api.admission.clients import Clients
from api.admission.counting import Counting
from api.admission.failures import PER_MINUTE
from api.admission.gcra import Allowance, Bucket
from api.admission.key_check import SETTINGS_SUBJECT, KeyCheck, Visitor
from api.admission.key_ring import OFFLINE_S
from api.admission.limits import NO_COST, ONE, UNLIMITED, Cost, Limits, buckets_of, tightest
from api.admission.refusals import RateLimited
from api.admission.trip import Taken
from api.errors import LedgerDown
from api.stores.calls import RedisCalls

MAX_CORRECTIONS = 1000
"""Under way at a time; more are dropped and counted."""
NO_LIMITS: Limits = {}


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of the door."""

    limits: Limits = NO_LIMITS
    """Empty where limits are off."""
    fail_mode: Literal["closed", "open"] = "closed"
    """What limits do while Redis is down: refuse everyone, or count in this process alone."""
    trusted_proxies: tuple[str, ...] = ()
    failures_per_minute: int = PER_MINUTE
    offline_s: float = OFFLINE_S
    """A key confirmed so lately goes on serving while Redis is down."""


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was let in: its caller, and what it was counted as."""

    caller: Caller
    route_class: RouteClass
    subject: str = ""
    """Whose buckets: `key:ID` or `ip:ADDRESS`; empty where auth and limits are off."""
    limits: Limits = NO_LIMITS
    cost: Cost = ONE
    allowance: Allowance | None = None
    """None in an unlimited class."""
    is_local: bool = False
    """Counted in this process alone."""

    @property
    def limit(self) -> Limit:
        return self.limits.get(self.route_class, UNLIMITED)

    def headers(self) -> dict[str, str]:
        return self.allowance.headers() if self.allowance else {}


class ClassStatus(msgspec.Struct, frozen=True):
    """What is left of one limit of a caller."""

    route_class: RouteClass
    allowance: Allowance


class DoorState(msgspec.Struct, frozen=True):
    """Where the door counts, for health checks: anything but `off` and `shared` is trouble."""

    limits: Literal["off", "shared", "local", "down"]
    keys: Literal["off", "shared", "unconfirmed"]
    wrong_keys: Literal["off", "shared", "local"]
    lost_corrections: int


class Door:
    """Lets requests in. `api_key` is AUTH_API_KEY, None where auth is off.

    Raises ValueError for a trusted proxy that is no network, and for an `api_key` that looks
    like one of the store.
    """

    def __init__(
        self,
        calls: RedisCalls,
        rules: Rules,
        *,
        api_key: bytes | None,
        pepper: bytes = b"",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rules = rules
        self._clients = Clients(rules.trusted_proxies)
        self._counting = Counting(calls, "limits", clock=clock)
        self._keys: KeyCheck | None = None
        if api_key is not None:
            self._keys = KeyCheck(
                calls,
                api_key,
                limits=rules.limits,
                pepper=pepper,
                failures_per_minute=rules.failures_per_minute,
                offline_s=rules.offline_s,
                clock=clock,
            )
        self._corrections: set[asyncio.Task[None]] = set()
        self._lost_corrections = 0

    def admit_at_once(self, headers: Mapping[str, str], route_class: RouteClass) -> Admitted | None:
        """Admit where nobody has to be asked; None where only `admit` can tell."""
        if self._rules.limits:
            return None
        if self._keys is None:
            return Admitted(caller=PUBLIC, route_class=route_class)
        if not self._keys.admits_at_once(headers):
            return None
        return Admitted(caller=SETTINGS_KEY, route_class=route_class, subject=SETTINGS_SUBJECT)

    async def admit(
        self,
        headers: Mapping[str, str],
        peer: str | None,
        route_class: RouteClass,
        cost: Cost = ONE,
    ) -> Admitted:
        """Return who asks, counted.

        `headers` by lower-case name; `peer` is the address of the connection.
        Raises Unauthorized, RateLimited, LedgerDown.
        """
        at_once = self.admit_at_once(headers, route_class)
        if at_once is not None:
            return at_once
        client = self._clients.of(peer, headers)
        if self._keys is None:
            visitor = Visitor(PUBLIC, self._rules.limits, f"ip:{client}")
        else:
            visitor = await self._keys.identify(headers, client)
        limit = visitor.limits.get(route_class, UNLIMITED)
        buckets = buckets_of(visitor.subject, route_class, limit, cost)
        taken: Taken | None = None
        if buckets or visitor.record_key:
            taken = await self._counting.take(buckets, record_key=visitor.record_key)
        caller = visitor.caller
        if self._keys is not None:  # before the limits: a revoked key is told so
            caller = await self._keys.confirmed(visitor, taken)
        allowance, is_local = self._limited(buckets, taken)
        return Admitted(
            caller=caller,
            route_class=route_class,
            subject=visitor.subject,
            limits=visitor.limits,
            cost=cost,
            allowance=allowance,
            is_local=is_local,
        )

    async def charge(self, admitted: Admitted, cost: Cost) -> Admitted:
        """Take more for a request that is in: a batch, once its questions are known.

        Raises RateLimited, LedgerDown.
        """
        buckets = buckets_of(admitted.subject, admitted.route_class, admitted.limit, cost)
        if not buckets:
            return admitted
        taken = await self._counting.take(buckets)
        allowance, is_local = self._limited(buckets, taken)
        before = admitted.cost
        total = Cost(before.requests + cost.requests, before.tokens + cost.tokens)
        return msgspec.structs.replace(admitted, cost=total, allowance=allowance, is_local=is_local)

    async def correct(self, admitted: Admitted, tokens: int) -> None:
        """Count the tokens that an answer took in place of those estimated."""
        amount = tokens - admitted.cost.tokens
        if not admitted.limit.tokens or not amount:
            return
        limit = Limit(tokens=admitted.limit.tokens)
        (bucket,) = buckets_of(admitted.subject, admitted.route_class, limit, NO_COST)
        if admitted.is_local:
            self._counting.add_here(bucket, amount)
        elif not await self._counting.add(bucket, amount):
            self._lost_corrections += 1

    def correct_soon(self, admitted: Admitted, tokens: int) -> None:
        """The same off the answer's path, whatever becomes of the request."""
        if not admitted.limit.tokens:
            return
        if len(self._corrections) >= MAX_CORRECTIONS:
            self._lost_corrections += 1
            return
        task = asyncio.create_task(self.correct(admitted, tokens))
        self._corrections.add(task)
        task.add_done_callback(self._corrections.discard)

    async def close(self) -> None:
        """Wait for corrections under way; the store's timeout bounds each."""
        await asyncio.gather(*self._corrections)

    async def status(self, admitted: Admitted) -> list[ClassStatus]:
        """Return what is left to the caller in every limited class. Raises LedgerDown."""
        rows: list[tuple[RouteClass, Bucket]] = [
            (route_class, bucket)
            for route_class, limit in admitted.limits.items()
            for bucket in buckets_of(admitted.subject, route_class, limit, NO_COST)
        ]
        if not rows:
            return []
        buckets = [bucket for _, bucket in rows]
        _, levels, _ = self._levels(buckets, await self._counting.take(buckets))
        return [
            ClassStatus(route_class, Allowance.of(bucket, level, passed=True))
            for (route_class, bucket), level in zip(rows, levels, strict=True)
        ]

    def state(self) -> DoorState:
        keys = self._keys
        here: Literal["local", "down"] = "local" if self._rules.fail_mode == "open" else "down"
        counted = here if self._counting.trouble else "shared"
        return DoorState(
            limits=counted if self._rules.limits else "off",
            keys="off" if keys is None else "unconfirmed" if keys.is_offline else "shared",
            wrong_keys="off" if keys is None else "local" if keys.failures.is_local else "shared",
            lost_corrections=self._lost_corrections,
        )

    def _limited(
        self, buckets: Sequence[Bucket], taken: Taken | None
    ) -> tuple[Allowance | None, bool]:
        """Return what is left, and whether it was counted here. Raises RateLimited, LedgerDown."""
        if not buckets:
            return None, False
        passed, levels, is_local = self._levels(buckets, taken)
        allowance = tightest(buckets, levels, passed=passed)
        if not passed:
            raise RateLimited(allowance)
        return allowance, is_local

    def _levels(
        self, buckets: Sequence[Bucket], taken: Taken | None
    ) -> tuple[bool, list[int], bool]:
        if taken is not None and taken.writes != "refused":
            return taken.passed, taken.levels, False
        if self._rules.fail_mode == "closed":
            raise LedgerDown("limits cannot be counted")
        return *self._counting.take_here(buckets), True
