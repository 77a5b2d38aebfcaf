"""Types of the ledger: budgets and their windows, holds, settlements, states, errors.

Money is whole micro-EUR everywhere. A window is fixed: hours, days and any number of seconds
aligned to the epoch (so days begin at midnight UTC), months by the calendar, in UTC.
"""

import re
import secrets
from calendar import monthrange
from datetime import UTC, datetime
from typing import Literal

import msgspec
from msgspec.structs import replace

Period = Literal["hour", "day", "month"] | int
"""Of a window; a number means seconds."""

SECONDS: dict[Period, int] = {"hour": 3600, "day": 86400}
MAX_AMOUNT = 10**15
"""A thousand million EUR in micro-EUR: Lua counts exactly up to 2^53."""
MAX_SCOPES = 16
MAX_LEASE_S = 7200.0
SCOPE_NAME = re.compile(r"[A-Za-z0-9._:@-]{1,128}")
HOLD_ID = re.compile(r"[A-Za-z0-9._-]{1,96}")
MIN_RETRY_S = 1.0


class LedgerDown(Exception):
    """The ledger cannot be asked, and so nothing may be spent."""

    retry_after_s = 5.0

    def __init__(self, message: str, *, may_hold: bool = False) -> None:
        super().__init__(message)
        self.may_hold = may_hold
        """It was asked: a hold may have been made all the same."""


class BudgetExhausted(Exception):
    """The amount does not fit into what is left of a scope's budget."""

    def __init__(self, scope: str, period: str, retry_after_s: float) -> None:
        super().__init__(f"the budget of {scope} ({period}) is used up")
        self.scope = scope
        self.period = period
        self.retry_after_s = retry_after_s
        """Until the window ends, or shorter where open holds alone are in the way."""


class LedgerScope(msgspec.Struct, frozen=True):
    """A budget: who may spend how much in each window of a period."""

    name: str
    limit: int
    """micro-EUR."""
    window: Period = "hour"

    def __post_init__(self) -> None:
        if not SCOPE_NAME.fullmatch(self.name):
            raise ValueError(f"scope {self.name!r} is not {SCOPE_NAME.pattern}")
        if not 0 <= self.limit <= MAX_AMOUNT:
            raise ValueError(f"limit of {self.name} is not within 0..{MAX_AMOUNT} micro-EUR")
        if isinstance(self.window, int) and not 1 <= self.window <= 366 * 86400:
            raise ValueError(f"window of {self.name} is not within 1 second and 366 days")

    @property
    def period(self) -> str:
        """`month`, or the seconds of a fixed window: what the scripts count by."""
        return "month" if self.window == "month" else str(SECONDS.get(self.window, self.window))

    @property
    def label(self) -> str:
        """hour, day, month, or seconds as in `900s`."""
        return self.window if isinstance(self.window, str) else f"{self.window}s"


class Window(msgspec.Struct, frozen=True):
    """One window of a scope; amounts are counted under its `key`."""

    scope: str
    period: str
    starts_at: int
    """Seconds since the epoch, as is `ends_at`."""
    ends_at: int

    @property
    def key(self) -> str:
        return f"{self.scope}|{self.period}|{self.starts_at}|{self.ends_at}"

    @classmethod
    def of_key(cls, key: str) -> "Window":
        scope, period, starts_at, ends_at = key.split("|")
        return cls(scope, period, int(starts_at), int(ends_at))

    @classmethod
    def at(cls, scope: LedgerScope, now_s: float) -> "Window":
        """The window of a scope at a time, as the scripts find it."""
        if scope.period == "month":
            day = datetime.fromtimestamp(now_s, UTC)
            starts_at = int(datetime(day.year, day.month, 1, tzinfo=UTC).timestamp())
            length = monthrange(day.year, day.month)[1] * 86400
        else:
            length = int(scope.period)
            starts_at = int(now_s // length) * length
        return cls(scope.name, scope.period, starts_at, starts_at + length)


class Counts(msgspec.Struct, frozen=True):
    """What is counted of one window."""

    window: Window
    spent: int = 0
    reserved: int = 0
    smallest: int = 1
    """The smallest amount that was asked for in this window."""


class ScopeState(msgspec.Struct, frozen=True, kw_only=True):
    """A budget as it stands; micro-EUR and seconds."""

    scope: str
    window: str
    """The scope's label."""
    window_s: int
    starts_at: int
    limit: int
    spent: int
    reserved: int
    smallest: int
    remaining: int
    """Less than zero only after the engine made more than it was asked for."""
    is_open: bool
    """The circuit: what is spent leaves no room for the smallest amount asked for so far."""
    reset_s: float

    @classmethod
    def of(cls, scope: LedgerScope, counts: Counts, now_s: float) -> "ScopeState":
        window = counts.window
        return cls(
            scope=scope.name,
            window=scope.label,
            window_s=window.ends_at - window.starts_at,
            starts_at=window.starts_at,
            limit=scope.limit,
            spent=counts.spent,
            reserved=counts.reserved,
            smallest=counts.smallest,
            remaining=scope.limit - counts.spent - counts.reserved,
            is_open=counts.spent + counts.smallest > scope.limit,
            reset_s=max(0.0, window.ends_at - now_s),
        )

    def after(self, seconds: float) -> "ScopeState":
        """The state that much later, if nothing is spent meanwhile."""
        reset_s = self.reset_s - seconds
        if reset_s > 0:
            return replace(self, reset_s=reset_s)
        return replace(
            self,
            starts_at=self.starts_at + self.window_s,
            spent=0,
            reserved=0,
            smallest=1,
            remaining=self.limit,
            is_open=self.limit < 1,
            reset_s=max(0.0, reset_s + self.window_s),
        )


class Hold(msgspec.Struct, frozen=True):
    """Money put aside for one request, in the windows in which it was asked for."""

    id: str
    amount: int
    windows: tuple[Window, ...]
    forget_at_ms: int
    """Until then the ledger remembers the hold or knows that it never had it."""
    is_local: bool = False
    """In the book of this process, made while the ledger was down."""


class Settlement(msgspec.Struct, frozen=True):
    """What a hold came to in the end; sent until the ledger has taken it."""

    id: str
    actual: int
    forget_at_ms: int
    windows: tuple[Window, ...]


class Settled(msgspec.Struct, frozen=True, array_like=True):
    """How a settlement went."""

    how: Literal["held", "expired", "unknown", "again", "late"]
    """held, expired: the hold was open, or had been charged whole at its lease's end. unknown:
    the ledger did not know it and charged it all the same. again: was settled before. late: not
    known any more, nothing changed."""
    overshoot: int
    """micro-EUR charged above what was held."""


def new_hold_id(request_id: str) -> str:
    """A name for the hold of a request, which nobody else can guess or repeat."""
    return f"{request_id[:64]}.{secrets.token_hex(8)}"
