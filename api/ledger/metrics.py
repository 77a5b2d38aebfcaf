"""Prometheus metrics of the ledger: the common budget, holds and settlements."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.ledger.budget_watch import BudgetWatch
from api.ledger.ledger import Ledger


class LedgerCollector(Collector):
    """Reads the ledger's own counts, and the budget as last seen, whenever Prometheus scrapes."""

    def __init__(self, ledger: Ledger, watch: BudgetWatch) -> None:
        self._ledger = ledger
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        states = self._watch.states
        for name, text, values in (
            ("rag_circuit_breaker_cumulative_cost_eur", "Spent in this window",
             [state.spent / 1e6 for state in states]),
            ("rag_budget_reserved_eur", "Held for open answers",
             [state.reserved / 1e6 for state in states]),
            ("rag_budget_limit_eur", "What may be spent in a window",
             [state.limit / 1e6 for state in states]),
            ("rag_circuit_breaker_open", "1 while the budget has no room left",
             [float(state.is_open) for state in states]),
        ):  # fmt: skip
            family = GaugeMetricFamily(name, text, labels=["scope"])
            for state, value in zip(states, values, strict=True):
                family.add_metric([state.scope], value)
            yield family
        settlements, book = self._ledger.settlements, self._ledger.book
        yield GaugeMetricFamily(
            "rag_ledger_open", "1 while money is counted in this process", self._ledger.is_open_mode
        )
        yield GaugeMetricFamily(
            "rag_ledger_unfolded_eur", "Counted here, unknown to the ledger", book.unfolded / 1e6
        )
        for name, text, count in (
            ("rag_ledger_dropped_settlements", "Charged whole, for want of a settlement",
             settlements.dropped),
            ("rag_budget_overshoots", "Answers charged above what was held for them",
             settlements.overshoots),
            ("rag_budget_soft_limit_reached", "Windows in which 80 % of a budget were spent",
             self._ledger.breaker.n_soft),
            ("rag_budget_exhausted", "Windows in which a budget ran out",
             self._ledger.breaker.n_opened),
        ):  # fmt: skip
            counter = CounterMetricFamily(name, text)
            counter.add_metric([], count)
            yield counter
