"""Prometheus metrics of the answer cache: hits, misses, vetoes, size."""

from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.cache.answer_cache import AnswerCache
from api.cache.flights import Flights


class CacheCollector(Collector):
    """Reads the cache's own counts whenever Prometheus scrapes."""

    def __init__(self, cache: AnswerCache, flights: Flights[Any]) -> None:
        self._cache = cache
        self._flights = flights

    def collect(self) -> Iterator[Metric]:
        stats = self._cache.stats()
        for name, text, label, counts in (
            ("rag_cache_hits", "Questions answered from the cache", "kind",
             {**stats.hits, "coalesced": self._flights.coalesced}),
            ("rag_cache_misses", "Lookups that found nothing", "kind", stats.misses),
            ("rag_cache_vetoes", "Near questions that were refused", "reason", stats.vetoes),
        ):  # fmt: skip
            family = CounterMetricFamily(name, text, labels=[label])
            for value, count in counts.items():
                family.add_metric([value], count)
            yield family
        dropped = CounterMetricFamily("rag_cache_dropped_writes", "Entries Redis never got")
        dropped.add_metric([], stats.dropped_writes)
        yield dropped
        yield GaugeMetricFamily("rag_cache_size", "Entries known here", stats.entries)
        yield GaugeMetricFamily("rag_cache_bytes", "Memory of entries here", stats.size_bytes)
