"""Prometheus metrics of one app, in a registry of its own.

Labels hold route templates, codes and names from settings: never text, ids or keys.
Error rate is the `outcome` label, set when the answer has ended: an answer that breaks off
after its 200 is not a success.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from api.telemetry.record import Record

LATENCY_BUCKETS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 30, 60, 120, 300,
)  # fmt: skip
TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5, 20)
STAGE_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, *LATENCY_BUCKETS)
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

LAG_INTERVAL_S = 0.5


class Metrics:
    """Counters, gauges and histograms that are set as things happen."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._children: dict[tuple[Any, ...], Any] = {}
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry)

        def histogram(
            name: str, text: str, *labels: str, buckets: tuple[float, ...] = LATENCY_BUCKETS
        ) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

        self.requests = counter(
            "rag_requests", "Requests by how they ended",
            "method", "endpoint", "status", "outcome",
        )  # fmt: skip
        self.errors = counter("rag_errors", "Errors told to callers", "code")
        self.latency = histogram(
            "rag_query_latency_seconds", "From the request to the end of its answer",
            "endpoint", "cache", "engine",
        )  # fmt: skip
        self.first_token = histogram(
            "rag_first_token_seconds", "From the request to its first token", "endpoint", "engine"
        )
        self.inter_token = histogram(
            "rag_inter_token_seconds", "Between two tokens of an answer",
            "engine", buckets=TOKEN_BUCKETS,
        )  # fmt: skip
        self.stage = histogram(
            "rag_stage_seconds", "One stage of an answer", "stage", buckets=STAGE_BUCKETS
        )
        self.tokens = counter("rag_tokens", "Tokens by direction", "direction", "engine", "model")
        self.experiment_answers = counter(
            "rag_experiment_answers", "Answers of experiments by how they ended",
            "experiment", "variant", "outcome",
        )  # fmt: skip
        self.citations = counter("rag_citations", "Sentences of answers made here", "kind")
        self.cost = counter("rag_cost_eur", "Cost of answers by the prices set", "engine", "model")
        self.rate_limited = counter(
            "rag_rate_limit_violations", "Requests refused by a rate limit", "class"
        )
        self.engine_up = gauge("rag_engine_up", "1 if the engine answered its last check", "engine")
        self.engine_in_flight = gauge("rag_engine_in_flight", "Open engine streams", "engine")
        self.open_streams = gauge("rag_open_streams", "Open answers of any mode")
        self.loop_lag = histogram(
            "rag_event_loop_lag_seconds", "How late a timer fired", buckets=LAG_BUCKETS
        )
        self.redis_up = gauge("rag_redis_up", "1 if Redis answered its last check", "role")
        self.redis_ping = gauge("rag_redis_ping_seconds", "How long its last check took", "role")
        self.queue_waiting = gauge("rag_queue_waiting", "Questions that wait for a place")
        self.queue_in_use = gauge("rag_queue_in_use", "Places before the engine that are taken")
        self.index_age = gauge("rag_index_generation_age_seconds", "Since the generation was built")
        self.index_passages = gauge("rag_index_passages", "Passages of the generation in use")

    def _child(self, metric: Any, *values: str) -> Any:
        """Return the metric with these labels; looking it up in the library costs 4 µs."""
        key = (metric, *values)
        if key not in self._children:
            self._children[key] = metric.labels(*values)
        return self._children[key]

    def observe(self, method: str, record: Record) -> None:
        """Count one request that has ended."""
        self._child(
            self.requests, method, record.endpoint, str(record.status), record.outcome or "ok"
        ).inc()
        if record.error:
            self.errors.labels(record.error).inc()
        if record.answers:
            latency = self._child(self.latency, record.endpoint, record.cache, record.engine)
            exemplar = {"trace_id": record.trace_id} if record.trace_id else None
            latency.observe(record.elapsed_ms() / 1000, exemplar)
            self.observe_stages(record.stages_ms)
            self.count_variant(record)

    def count_variant(self, record: Record) -> None:
        """Count an answer that has ended for its experiment, if it took part in one."""
        if record.experiment:
            names = (record.experiment, record.variant, record.outcome or "ok")
            self._child(self.experiment_answers, *names).inc()

    def count_citations(self, counts: Mapping[Any, int]) -> None:
        for kind, count in counts.items():
            self._child(self.citations, kind).inc(count)

    def observe_stages(self, stages_ms: Mapping[str, float]) -> None:
        for stage, ms in stages_ms.items():
            self._child(self.stage, stage).observe(ms / 1000)

    async def watch_loop_lag(self) -> None:
        """Measure for ever how late the event loop wakes us."""
        while True:
            due = time.monotonic() + LAG_INTERVAL_S
            await asyncio.sleep(LAG_INTERVAL_S)
            self.loop_lag.observe(max(0.0, time.monotonic() - due))
