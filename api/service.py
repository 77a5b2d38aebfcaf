"""Everything one app holds open: engine, stores, retriever. Opened and closed as a whole."""

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import aiohttp
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from api.admission import Door
from api.answer import Stages
from api.caching.answer_cache import AnswerCache
from api.caching.calibration import threshold_for
from api.caching.flights import Flights
from api.caching.store import Store
from api.caching.verifier import load_verifier
from api.embedded import Embedded, run_embedded
from api.engines import Engines
from api.errors import ShuttingDown
from api.generation import Engine, Limits, engine_session
from api.loading import Loader
from api.logs import logger
from api.prompt import PromptBuilder
from api.question import Caching, Served
from api.schemas import Check, Event, Health, Status
from api.settings import EngineAddress, Settings
from api.telemetry import Metrics, watch_cache

REDIS_TIMEOUT_S = 0.1
CHECK_INTERVAL_S = 5.0
ENGINE_START_S = 120.0
LOCAL_CHECKS = ("models", "index")
"""What decides readiness: a replica whose engine is down still serves search and says why."""


class Service:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.door = Door(settings.auth)
        cache = settings.cache
        self.loader = Loader(
            settings.retrieval,
            self.metrics,
            cache_model=cache.embedding_model if cache.enabled else None,
        )
        self.cache: AnswerCache | None = None
        self.flights: Flights[Event] | None = None
        self._recent: OrderedDict[str, Served] = OrderedDict()
        self.prompts = PromptBuilder.from_file(settings.pipeline.prompt_file)
        self.started = time.monotonic()
        self.draining = False
        self.embedded: Embedded | None = None
        self.engines: Engines | None = None
        self._stores: dict[str, redis.Redis] = {}
        self._checks: dict[str, Check] = {}
        self.engine_checks: dict[str, Check] = {}

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Open everything without waiting for models or engine; close it in reverse order."""
        async with AsyncExitStack() as stack:
            settings = self.settings
            if not settings.engine_addresses():
                index_dir = Path(settings.retrieval.index_dir)
                self.embedded = await stack.enter_async_context(run_embedded(index_dir))
            session = await stack.enter_async_context(engine_session())
            self.engines = self._open_engines(session)
            for engine in self.engines.all:
                in_flight = self.metrics.engine_in_flight.labels(engine.name)
                in_flight.set_function(partial(getattr, engine, "in_flight"))
            for role, url in self._store_urls().items():
                store = redis.Redis.from_url(
                    url,
                    socket_timeout=REDIS_TIMEOUT_S,
                    socket_connect_timeout=REDIS_TIMEOUT_S,
                    retry=Retry(NoBackoff(), 0),  # else one call may take several timeouts
                )
                stack.push_async_callback(store.aclose)
                self._stores[role] = store
            stack.callback(self.loader.close)
            if settings.cache.enabled:
                await self._open_cache(stack)
            background = [
                asyncio.create_task(coroutine)
                for coroutine in (
                    self.loader.run(),
                    self.metrics.watch_loop_lag(),
                    self._watch_neighbours(),
                )
            ]
            try:
                yield
            finally:
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)

    async def until_answering(self) -> None:
        """Wait until a first question has a chance: all is loaded, the embedded engine too."""
        await self.loader.settled.wait()
        async with asyncio.timeout(ENGINE_START_S):
            while self.embedded and self.engines:
                if (await self.engines.all[0].check()).status == "ok":
                    return
                await asyncio.sleep(0.1)

    async def _open_cache(self, stack: AsyncExitStack) -> None:
        settings = self.settings.cache
        model = settings.embedding_model
        threshold = threshold_for(model, settings.similarity_threshold or None)
        if threshold is None:
            facts = {"setting": "CACHE_SIMILARITY_THRESHOLD", "model": model}
            logger.warning("cache answers equal questions alone", extra={"facts": facts})
        verifier = None
        if settings.verifier_model:
            verifier = await asyncio.to_thread(load_verifier, settings.verifier_model)
            stack.callback(verifier.close)
        self.cache = AnswerCache(
            threshold=threshold,
            max_bytes=settings.memory_mb << 20,
            store=Store(self._stores["cache"], name=uuid.uuid4().hex[:12]),
            verifier=verifier,
        )
        self.cache.start()
        stack.push_async_callback(self.cache.close)
        self.flights = Flights(threshold=threshold, may_share=self.cache.may_share)
        stack.push_async_callback(self.flights.close)
        self.loader.on_swap = lambda generation: (
            self.cache and self.cache.keep_generations([generation])
        )
        watch_cache(self.metrics, self.cache, self.flights)

    def caching(self) -> Caching | None:
        """Return the cache with what it needs; None where it is off."""
        if self.cache is None or self.flights is None:
            return None
        retrieval = self.settings.retrieval
        return Caching(
            cache=self.cache,
            flights=self.flights,
            embedder=self.loader.cache_embedder,
            shares_vector=self.loader.shares_embedder,
            ttl_s=self.settings.cache.ttl_seconds,
            retrieval=(
                ("fusion", retrieval.fusion),
                ("sparse_weight", retrieval.sparse_weight),
                ("min_similarity", retrieval.min_similarity),
            ),
            recent=self._recent,
        )

    def stages(self) -> Stages:
        """Return what an answer is made with. Raises ShuttingDown, Loading or NoIndex."""
        if self.draining or self.engines is None:
            raise ShuttingDown("this instance is shutting down")
        pipeline = self.settings.pipeline
        return Stages(
            retriever=self.loader.retriever(),
            engines=self.engines,
            prompts=self.prompts,
            metrics=self.metrics,
            context_tokens=pipeline.context_tokens,
            max_tokens=pipeline.max_new_tokens,
            temperature=pipeline.temperature,
            deadline_s=self.settings.api.deadline_seconds,
        )

    async def health(self) -> Health:
        """Ask every part now; `status` follows from the local ones alone."""
        neighbours = await self._ask_neighbours()
        checks = {**self.loader.checks(), **neighbours}
        return Health(self._status(checks), checks)

    def last_health(self) -> Health:
        """Return the state as of the last background check, without asking anyone."""
        checks = {**self.loader.checks(), **self._checks}
        return Health(self._status(checks), checks)

    def _status(self, checks: dict[str, Check]) -> Status:
        if self.draining:
            return "draining"
        local = [checks[name] for name in LOCAL_CHECKS]
        if all(check.status == "ok" for check in local):
            return "ok"
        return "unavailable" if any(check.detail for check in local) else "loading"

    def _open_engines(self, session: aiohttp.ClientSession) -> Engines:
        settings, embedded = self.settings.engine, self.embedded
        addresses = self.settings.engine_addresses()
        if embedded:
            addresses = [EngineAddress("embedded", "embedded", embedded.engine_url)]
        limits = Limits(
            connect_s=settings.connect_seconds,
            first_token_s=settings.first_token_seconds,
            token_s=settings.token_seconds,
        )
        return Engines(
            [
                Engine(
                    session,
                    kind=address.kind,
                    name=address.name,
                    url=address.url,
                    model=embedded.model if embedded else self.settings.pipeline.model_name,
                    api_key=embedded.engine_key if embedded else settings.api_key,
                    limits=limits,
                )
                for address in addresses
            ]
        )

    def _store_urls(self) -> dict[str, str]:
        if self.embedded:
            return {"cache": self.embedded.cache_url, "ledger": self.embedded.ledger_url}
        return {
            "cache": self.settings.cache.redis_url,
            "ledger": self.settings.ledger.redis_url,
        }

    async def _ask_neighbours(self) -> dict[str, Check]:
        """Check engine and stores side by side, note the gauges, and return the checks."""
        if self.engines is None:
            return {}
        engines = self.engines.all
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
            self.metrics.engine_up.labels(name).set(check.status == "ok")
        # One engine that works is enough to answer.
        best = next((c for c in self.engine_checks.values() if c.status == "ok"), answers[0])
        checks = {"engine": best, **dict(zip(names, answers[len(engines) :], strict=True))}
        for role in self._stores:
            self.metrics.redis_up.labels(role).set(checks[f"redis_{role}"].status == "ok")
        self._checks = checks
        return checks

    async def _watch_neighbours(self) -> None:
        """Keep the gauges of engine and stores true between health requests."""
        while True:
            await self._ask_neighbours()
            await asyncio.sleep(CHECK_INTERVAL_S)


async def _ping(store: redis.Redis) -> Check:
    started = time.monotonic()
    with suppress(RedisError, OSError, TimeoutError):
        await store.ping()
        return Check("ok", round((time.monotonic() - started) * 1000, 1))
    return Check("down")
