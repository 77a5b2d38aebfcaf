"""What answers cost: reserved in the budget ledger before the engine is asked, then settled.

The one place where the answer path and the ledger meet; cached and shared answers never come here.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from api.admission.caller import Caller
from api.errors import BudgetExhausted, LedgerDown
from api.ledger import types as ledger_types
from api.ledger.ledger import Ledger
from api.ledger.prices import Price, PriceError, PriceTable, load_prices
from api.ledger.types import Hold, LedgerScope, new_hold_id
from api.settings.env import Settings, SettingsError
from api.settings.groups import LedgerSettings
from api.telemetry.metrics import Metrics
from api.usage import Usage

HYPOTHETICAL = Price.of(0.0005, 0.0015)
"""EUR per 1,000 tokens of a small cloud model: what free local answers are counted at."""
LEASE_MARGIN_S = 30.0
"""Beyond the deadline of an answer: a hold that is still open then belongs to a dead process."""
LEDGER_DOWN = (
    "the budget ledger (CB_REDIS_URL) cannot be reached; answers are refused until it is back"
)


class BudgetScope(msgspec.Struct, frozen=True, kw_only=True):
    """One budget in its current window."""

    scope: str
    window: str
    limit_eur: float
    spent_eur: float
    reserved_eur: float
    """Held for answers under way: their worst case, freed when they end."""
    remaining_eur: float
    state: Literal["closed", "open"]
    reset_s: float


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """`open`: no engine is asked until the window ends; cached answers and search still serve."""

    state: Literal["closed", "open"]
    counted: Literal["shared", "here"]
    """here: the ledger is down, and this process counts for itself."""
    scopes: list[BudgetScope]


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    ledger: Ledger
    prices: PriceTable
    common: LedgerScope
    """The budget that all answers share."""
    lease_s: float
    metrics: Metrics

    async def reserve(
        self,
        messages: Sequence[Mapping[str, str]],
        max_tokens: int,
        models: Iterable[str],
        caller: Caller,
        request_id: str,
    ) -> Hold:
        """Put the worst case of the dearest model aside. Raises BudgetExhausted, LedgerDown."""
        amount = max(self.prices.worst_case(model, messages, max_tokens) for model in models)
        hold_id = new_hold_id(request_id)
        try:
            return await self.ledger.reserve(hold_id, self.scopes(caller), amount, self.lease_s)
        except ledger_types.BudgetExhausted as exc:
            raise BudgetExhausted(_describe(exc), retry_after_s=exc.retry_after_s) from exc
        except ledger_types.LedgerDown as exc:
            raise LedgerDown(LEDGER_DOWN) from exc

    def settle(self, hold: Hold, usage: Usage, engine: str, model: str) -> float:
        """Charge what was used, off the path of the answer. Return it in EUR."""
        spent = self.prices.cost(model, usage.prompt_tokens, usage.completion_tokens)
        self.ledger.settle_soon(hold, spent)
        cost_eur = spent / 1e6
        self.metrics.cost.labels(engine, model).inc(cost_eur)
        return cost_eur

    def release(self, hold: Hold) -> None:
        """Nothing was made: the hold ends without a charge."""
        self.ledger.settle_soon(hold, 0)

    def scopes(self, caller: Caller) -> list[LedgerScope]:
        own = [
            LedgerScope(f"key:{caller.key_id}", budget.micro_eur, budget.window)
            for budget in caller.budgets
        ]
        return [self.common, *own]

    async def budget(self, caller: Caller) -> Budget:
        """Return the caller's budgets, with the common one for an admin. Raises LedgerDown."""
        scopes = self.scopes(caller)
        try:
            states = await self.ledger.state(scopes)
        except ledger_types.LedgerDown as exc:
            raise LedgerDown(LEDGER_DOWN) from exc
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


def common_scope(settings: LedgerSettings) -> LedgerScope:
    return LedgerScope("global", round(settings.cost_limit_eur * 1e6), settings.window_seconds)


def _describe(exhausted: ledger_types.BudgetExhausted) -> str:
    owner = "common" if exhausted.scope == "global" else "key's"
    return f"the {owner} budget ({exhausted.period}) has no room for this answer"
