"""The parts of one app, opened and closed as a whole: engines, stores, retriever, cache, log."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from api.admission.caller import Caller
from api.admission.door import Door
from api.answering.cached import CachedAnswers
from api.answering.carry_over import CarryOver
from api.answering.context import Stages
from api.answering.events import Event
from api.answering.experiments import load_experiment
from api.answering.prompt import PromptBuilder
from api.answering.spending import Spending
from api.background import Background
from api.cache.answer_cache import AnswerCache
from api.cache.flights import Flights
from api.cache.metrics import CacheCollector
from api.cache.store import Store
from api.cache.thresholds import threshold_for
from api.cache.verifier import load_verifier
from api.citations.verifier import CitationVerifier, load_citation_verifier
from api.documents.ingest import Ingest
from api.documents.loader import Loader
from api.embedded.children import Embedded, run_embedded
from api.engines.client import engine_session
from api.engines.pool import Engines
from api.errors import ShuttingDown
from api.health import Check, Health, Status
from api.ledger.budget_watch import BudgetWatch
from api.ledger.metrics import LedgerCollector
from api.log.metrics import LogCollector
from api.log.query_log import QueryLog, open_log
from api.logs import logger
from api.machine import available_cores, model_threads
from api.runtime.checks import Checks
from api.runtime.drain import Drain
from api.runtime.wiring import open_door, open_engines, open_queue, open_spending
from api.settings.env import Settings
from api.settings.types import read_model
from api.stores.breaker import Breaker
from api.stores.calls import RedisCalls
from api.stores.connect import connect
from api.telemetry.metrics import Metrics
from api.telemetry.record import Record
from api.telemetry.tracing import Tracer, open_tracer

ENGINE_START_S = 120.0
SETTLE_S = 5.0
"""How long the ledger may take at the end to hear of the last answers."""
LOCAL_CHECKS = ("models", "index")
"""What decides readiness: a replica whose engine is down still serves search and says why."""


class Service:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        cache = settings.cache
        self.loader = Loader(
            settings.retrieval,
            self.metrics,
            cache_model=cache.embedding_model if cache.enabled else None,
        )
        self.ingest = Ingest(
            settings.retrieval.index_dir,
            self.loader,
            window_s=settings.ingest.window_seconds,
            language=settings.retrieval.language,
        )
        self.cache: AnswerCache | None = None
        self.cached_answers: CachedAnswers | None = None
        self.prompts = PromptBuilder.from_file(settings.pipeline.prompt_file)
        self.citation_verifier: CitationVerifier | None = None
        self.experiment = load_experiment(settings, self.prompts)
        self.tracer: Tracer | None = None
        self.log: QueryLog | None = None
        self.started = time.monotonic()
        self.drain = Drain()
        self.embedded: Embedded | None = None
        self.session: aiohttp.ClientSession
        self.engines: Engines
        self.checks: Checks
        self.door: Door
        self.spending: Spending
        self.queue = open_queue(settings)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Open everything without waiting for models or engine; close it in reverse order."""
        async with AsyncExitStack() as stack:
            settings = self.settings
            if settings.telemetry.exporter_otlp_endpoint:
                self.tracer = open_tracer(settings.telemetry)
                stack.callback(self.tracer.close)
            if settings.database.database_url != "off":
                self.log = await stack.enter_async_context(self._open_log())
                self.metrics.registry.register(LogCollector(self.log.writer))
            if settings.citations.verifier_model:
                judge = read_model(settings.citations.verifier_model)
                self.citation_verifier = await asyncio.to_thread(
                    load_citation_verifier,
                    judge.id,
                    revision=judge.revision,
                    threads=model_threads(available_cores()),
                )
                stack.callback(self.citation_verifier.close)
            if not settings.engine_addresses():
                index_dir = Path(settings.retrieval.index_dir)
                self.embedded = await stack.enter_async_context(run_embedded(index_dir))
            self.session = await stack.enter_async_context(engine_session())
            self.engines = open_engines(self.session, settings, self.embedded)
            for engine in self.engines.all:
                in_flight = self.metrics.engine_in_flight.labels(engine.name)
                in_flight.set_function(partial(getattr, engine, "in_flight"))
            self.metrics.queue_waiting.set_function(lambda: self.queue.waiting)
            self.metrics.queue_in_use.set_function(lambda: self.queue.in_use)
            stores = {role: connect(url) for role, url in self._store_urls().items()}
            for store in stores.values():
                stack.push_async_callback(store.aclose)
            self.checks = Checks(self.engines, stores, self.metrics)
            await self._open_money(stack, stores["ledger"])
            stack.callback(self.loader.close)
            stack.push_async_callback(self.ingest.close)
            if settings.cache.enabled:
                await self._open_cache(stack, stores["cache"])
            for name, work in (
                ("loader", self.loader.run()),
                ("ingest", self.ingest.run()),
                ("loop lag", self.metrics.watch_loop_lag()),
                ("checks", self.checks.watch()),
            ):
                background = Background(name)
                background.start(work)
                stack.push_async_callback(background.stop)
            yield

    def _open_log(self) -> AbstractAsyncContextManager[QueryLog]:
        settings = self.settings
        return open_log(settings.database, settings.retrieval.index_dir)

    async def until_answering(self) -> None:
        """Wait until a first question has a chance: all is loaded, the embedded engine too."""
        await self.loader.settled.wait()
        async with asyncio.timeout(ENGINE_START_S):
            while self.embedded:
                if (await self.engines.all[0].check()).status == "ok":
                    return
                await asyncio.sleep(0.1)

    async def _open_money(self, stack: AsyncExitStack, store: Any) -> None:
        calls = RedisCalls(store, Breaker("redis_ledger"))
        self.door = open_door(self.settings, calls)
        stack.push_async_callback(self.door.close)
        self.spending = open_spending(self.settings, calls, self.metrics)
        ledger = self.spending.ledger
        ledger.start()
        stack.push_async_callback(ledger.close, SETTLE_S)
        watch = BudgetWatch(ledger, [self.spending.common])
        watch.start()
        stack.push_async_callback(watch.close)
        self.metrics.registry.register(LedgerCollector(ledger, watch))

    async def _open_cache(self, stack: AsyncExitStack, store: Any) -> None:
        settings = self.settings.cache
        model = read_model(settings.embedding_model).id
        threshold = threshold_for(model, settings.similarity_threshold or None)
        if threshold is None:
            facts = {"setting": "CACHE_SIMILARITY_THRESHOLD", "model": model}
            logger.warning("cache answers equal questions alone", extra={"facts": facts})
        verifier = None
        if settings.verifier_model:
            judge = read_model(settings.verifier_model)
            verifier = await asyncio.to_thread(
                load_verifier,
                judge.id,
                revision=judge.revision,
                threads=model_threads(available_cores()),
            )
            stack.callback(verifier.close)
        self.cache = AnswerCache(
            threshold=threshold,
            max_bytes=settings.memory_mb << 20,
            store=Store(store, name=uuid.uuid4().hex[:12]),
            verifier=verifier,
        )
        self.cache.start()
        stack.push_async_callback(self.cache.close)
        flights: Flights[Event] = Flights(threshold=threshold, may_share=self.cache.may_share)
        stack.push_async_callback(flights.close)
        carry_over = CarryOver(
            self.cache, lambda: (self.loader.retriever(), self.loader.shares_embedder)
        )
        stack.push_async_callback(carry_over.close)
        self.loader.on_swap = carry_over.swapped
        self.loader.on_hide.append(flights.part)
        self.cached_answers = CachedAnswers(
            self.cache,
            flights,
            embedder=lambda: self.loader.cache_embedder,
            retrieval=self._retrieval_settings(),
            ttl_s=settings.ttl_seconds,
        )
        self.metrics.registry.register(CacheCollector(self.cache, flights))

    def _retrieval_settings(self) -> tuple[tuple[str, object], ...]:
        """Return the settings that change what is found, for the cache's partitions."""
        retrieval, citations = self.settings.retrieval, self.settings.citations
        return (
            ("fusion", retrieval.fusion),
            ("sparse_weight", retrieval.sparse_weight),
            ("min_similarity", retrieval.min_similarity),
            ("rerank_model", retrieval.rerank_model),
            ("citation_verifier", citations.verifier_model),
        )

    def stages(self) -> Stages:
        """Return what an answer is made with. Raises ShuttingDown, Loading or NoIndex."""
        if self.drain.started:
            raise ShuttingDown("this instance is shutting down")
        pipeline = self.settings.pipeline
        return Stages(
            retriever=self.loader.retriever(),
            engines=self.engines,
            queue=self.queue,
            spending=self.spending,
            door=self.door,
            prompts=self.prompts,
            verifier=self.citation_verifier,
            metrics=self.metrics,
            context_tokens=pipeline.context_tokens,
            max_tokens=pipeline.max_new_tokens,
            temperature=pipeline.temperature,
            deadline_s=self.settings.api.deadline_seconds,
        )

    def log_answer(self, record: Record, caller: Caller | None) -> None:
        """Keep an answer that has ended in the query log, where there is one."""
        if self.log is not None:
            self.log.note(record, caller)

    async def health(self) -> Health:
        """Ask every part now; `status` follows from the local ones alone."""
        await self.checks.ask()
        return self.last_health()

    def last_health(self) -> Health:
        """Return the state as of the last background check, without asking anyone."""
        database = self.log.check() if self.log else Check("off")
        checks = {**self.loader.checks(), **self.checks.last, "database": database}
        return Health(self._status(checks), checks)

    def _status(self, checks: dict[str, Check]) -> Status:
        if self.drain.started:
            return "draining"
        local = [checks[name] for name in LOCAL_CHECKS]
        if all(check.status == "ok" for check in local):
            return "ok"
        return "unavailable" if any(check.detail for check in local) else "loading"

    def _store_urls(self) -> dict[str, str]:
        if self.embedded:
            return {"cache": self.embedded.cache_url, "ledger": self.embedded.ledger_url}
        return {
            "cache": self.settings.cache.redis_url,
            "ledger": self.settings.ledger.redis_url,
        }
