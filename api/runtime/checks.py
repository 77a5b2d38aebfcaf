"""Check the parts that live in other processes: engines and Redis."""

import asyncio
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

from redis.exceptions import RedisError

from api.engines.pool import Engines
from api.health import Check
from api.telemetry.metrics import Metrics

CHECK_INTERVAL_S = 5.0


class Checks:
    """`stores` by role."""

    def __init__(self, engines: Engines, stores: Mapping[str, Any], metrics: Metrics) -> None:
        self.last: dict[str, Check] = {}
        """engine, and redis_ROLE for each store, as of the last time they were asked."""
        self.engine_checks: dict[str, Check] = {}
        self._engines = engines
        self._stores = stores
        self._metrics = metrics

    async def ask(self) -> dict[str, Check]:
        """Check all of them side by side, note the gauges, and return the checks."""
        engines = self._engines.all
        names = [f"redis_{role}" for role in self._stores]
        asked: list[Awaitable[Check]] = [
            *(engine.check() for engine in engines),
            *(_ping(store) for store in self._stores.values()),
        ]
        answers = await asyncio.gather(*asked)
        self.engine_checks = {
            engine.name: check for engine, check in zip(engines, answers, strict=False)
        }
        for name, check in self.engine_checks.items():
            self._metrics.engine_up.labels(name).set(check.status == "ok")
        # One engine that works is enough to answer.
        best = next((c for c in self.engine_checks.values() if c.status == "ok"), answers[0])
        self.last = {"engine": best, **dict(zip(names, answers[len(engines) :], strict=True))}
        for role in self._stores:
            check = self.last[f"redis_{role}"]
            self._metrics.redis_up.labels(role).set(check.status == "ok")
            if check.ms is not None:
                self._metrics.redis_ping.labels(role).set(check.ms / 1000)
        return self.last

    async def watch(self) -> None:
        """Keep checks and gauges true between health requests, until cancelled."""
        while True:
            await self.ask()
            await asyncio.sleep(CHECK_INTERVAL_S)


async def _ping(store: Any) -> Check:
    started = monotonic()
    with suppress(RedisError, OSError, TimeoutError):
        await store.ping()
        return Check("ok", round((monotonic() - started) * 1000, 1))
    return Check("down")
