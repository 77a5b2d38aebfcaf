"""What answers cost: reserved in the ledger before the engine is asked, settled by what it used.

The one place where the answer path and the ledger meet; cached and shared answers never come here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.admission.caller import Caller
from api.errors import BudgetExhausted, LedgerDown
from api.http.schemas import Budget, BudgetScope, Usage
from api.ledger import types as ledger_types
from api.ledger.cost_breaker import BudgetWatch
from api.ledger.ledger import Ledger
from api.ledger.prices import Price, PriceError, PriceTable, load_prices
from api.ledger.types import Hold, Scope, new_hold_id
from api.settings.env import Settings, SettingsError
from api.settings.groups import LedgerSettings
from api.telemetry.metrics import Metrics, Record

HYPOTHETICAL = Price.of(0.0005, 0.0015)
"""EUR per 1,000 tokens of a small cloud model: what free local answers are counted at."""
LEASE_MARGIN_S = 30.0
"""Beyond the deadline of an answer: a hold that is still open then belongs to a dead process."""


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    ledger: Ledger
    prices: PriceTable
    common: Scope
    """The budget that all answers share."""
    lease_s: float
    metrics: Metrics

    async def reserve(
        self,
        messages: Sequence[Mapping[str, str]],
        max_tokens: int,
        models: Iterable[str],
        caller: Caller,
        record: Record,
    ) -> Hold:
        """Put the worst case of the dearest model aside. Raises BudgetExhausted, LedgerDown."""
        amount = max(self.prices.worst_case(model, messages, max_tokens) for model in models)
        hold_id = new_hold_id(record.request_id)
        try:
            hold = await self.ledger.reserve(hold_id, self.scopes(caller), amount, self.lease_s)
        except ledger_types.BudgetExhausted as exc:
            raise BudgetExhausted(_told(exc), retry_after_s=exc.retry_after_s) from exc
        except ledger_types.LedgerDown as exc:
            raise LedgerDown("the ledger does not answer, and nothing is spent unseen") from exc
        if hold.is_local:
            record.degraded.append("ledger_open")
        return hold

    def settle(self, hold: Hold, record: Record, usage: Usage) -> None:
        """Charge what was used, off the path of the answer; noted on the record as well."""
        spent = self.prices.cost(record.model, usage.prompt_tokens, usage.completion_tokens)
        self.ledger.settle_soon(hold, spent)
        record.cost_eur = spent / 1e6
        self.metrics.cost.labels(record.engine, record.model).inc(record.cost_eur)

    def release(self, hold: Hold) -> None:
        """Nothing was made: the hold ends without a charge."""
        self.ledger.settle_soon(hold, 0)

    def scopes(self, caller: Caller) -> list[Scope]:
        own = [
            Scope(f"key:{caller.key_id}", budget.micro_eur, budget.window)
            for budget in caller.budgets
        ]
        return [self.common, *own]

    async def budget(self, caller: Caller) -> Budget:
        """Return the caller's budgets, with the common one for an admin. Raises LedgerDown."""
        scopes = self.scopes(caller)
        try:
            states = await self.ledger.state(scopes)
        except ledger_types.LedgerDown as exc:
            raise LedgerDown("the ledger does not answer") from exc
        shown = states if "admin" in caller.scopes else states[1:]
        return Budget(
            state="open" if any(state.is_open for state in states) else "closed",
            counted="here" if self.ledger.is_open_mode else "shared",
            scopes=[
                BudgetScope(
                    scope=state.scope,
                    window=state.window,
                    limit_eur=state.limit / 1e6,
                    spent_eur=state.spent / 1e6,
                    reserved_eur=state.reserved / 1e6,
                    remaining_eur=max(0, state.remaining) / 1e6,
                    state="open" if state.is_open else "closed",
                    reset_s=round(state.reset_s, 1),
                )
                for state in shown
            ],
        )


def price_table(settings: Settings) -> PriceTable:
    """Raises SettingsError for prices that cannot be read, or are missing where money is real."""
    ledger = settings.ledger
    try:
        models = load_prices(Path(ledger.prices_file)) if ledger.prices_file else {}
    except PriceError as exc:
        raise SettingsError(f"CB_PRICES_FILE: {exc}") from exc
    given = (ledger.cost_per_1k_input, ledger.cost_per_1k_output)
    default = HYPOTHETICAL if None in given else Price.of(*given)
    is_paid = any(address.kind == "openai" for address in settings.engine_addresses())
    if is_paid and None in given and settings.pipeline.model_name not in models:
        raise SettingsError(
            "CB_COST_PER_1K_INPUT, CB_COST_PER_1K_OUTPUT: required for ENGINE=openai, "
            "or a price of PIPELINE_MODEL_NAME in CB_PRICES_FILE"
        )
    return PriceTable.of(default, models)


def fail_mode(settings: Settings) -> str:
    """closed or open: auto is closed as soon as one engine costs real money."""
    if settings.ledger.fail_mode != "auto":
        return settings.ledger.fail_mode
    is_paid = any(address.kind == "openai" for address in settings.engine_addresses())
    return "closed" if is_paid else "open"


def common_scope(settings: LedgerSettings) -> Scope:
    return Scope("global", round(settings.cost_limit_eur * 1e6), settings.window_seconds)


def _told(exhausted: ledger_types.BudgetExhausted) -> str:
    owner = "common" if exhausted.scope == "global" else "key's"
    return f"the {owner} budget ({exhausted.period}) has no room for this answer"


class _LedgerCollector(Collector):
    """The common budget as it was last seen, read when Prometheus asks."""

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


def watch_ledger(metrics: Metrics, ledger: Ledger, watch: BudgetWatch) -> None:
    metrics.registry.register(_LedgerCollector(ledger, watch))
