"""Prometheus metrics of the query log: rows written, dropped and waiting; the database's state."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.log.writer import Writer


class LogCollector(Collector):
    """Reads the writer's own counts whenever Prometheus scrapes."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    def collect(self) -> Iterator[Metric]:
        writer = self._writer
        for name, text, count in (
            ("rag_log_written", "Rows of the log that the database took", writer.written),
            ("rag_log_dropped", "Rows of the log that it never got", writer.dropped),
        ):
            counter = CounterMetricFamily(name, text)
            counter.add_metric([], count)
            yield counter
        yield GaugeMetricFamily("rag_log_waiting", "Rows that wait", writer.n_waiting)
        yield GaugeMetricFamily("rag_database_up", "1 if it took the last batch", writer.is_up)
