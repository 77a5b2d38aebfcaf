"""The ledger as it should be: slow, in memory, one line a rule."""

from dataclasses import dataclass, field

from api.ledger.types import Hold, LedgerScope, Window

MARK_S = 600
KEEP_S = 10_800
HOLDS_RETRY_S = 5


@dataclass
class Entry:
    hold: Hold
    lease_ends_at: float
    state: str = "held"  # expired, settled
    swept_at: float = 0.0

    def is_surely_known(self, until: float) -> bool:
        return self.state == "held" or until < self.lease_ends_at + MARK_S

    def is_surely_forgotten(self, now: float) -> bool:
        return self.state == "expired" and now >= self.swept_at + MARK_S


@dataclass
class Model:
    spent: dict[Window, int] = field(default_factory=dict)
    reserved: dict[Window, int] = field(default_factory=dict)
    loose: set[Window] = field(default_factory=set)
    """Windows that may exceed their limit: an engine lied, or this process counted for itself."""
    entries: dict[str, Entry] = field(default_factory=dict)

    def add(self, windows: tuple[Window, ...], spent: int, reserved: int) -> None:
        for window in windows:
            self.spent[window] = self.spent.get(window, 0) + spent
            self.reserved[window] = self.reserved.get(window, 0) + reserved

    def sweep(self, now: float) -> None:
        for entry in self.entries.values():
            if entry.state == "held" and not entry.hold.is_local and entry.lease_ends_at <= now:
                self.add(entry.hold.windows, entry.hold.amount, -entry.hold.amount)
                entry.state, entry.swept_at = "expired", now

    def refusal(self, scopes: list[LedgerScope], amount: int, now: float) -> tuple[float, str]:
        """Seconds to wait and for which scope; 0 if it fits."""
        leases = [
            entry.lease_ends_at
            for entry in self.entries.values()
            if entry.state == "held" and not entry.hold.is_local
        ]
        waits = []
        for scope in scopes:
            window = Window.at(scope, now)
            spent, reserved = self.spent.get(window, 0), self.reserved.get(window, 0)
            left_s = window.ends_at - now
            if spent + amount > scope.limit:
                waits.append((left_s, scope.name))
            elif spent + reserved + amount > scope.limit:
                waits.append((min(left_s, HOLDS_RETRY_S, min(leases) - now), scope.name))
        return max(waits, key=lambda wait: wait[0], default=(0.0, ""))

    def reserve(self, hold: Hold, lease_ends_at: float) -> None:
        self.entries[hold.id] = Entry(hold, lease_ends_at)
        if not hold.is_local:
            self.add(hold.windows, 0, hold.amount)

    def settle(self, entry: Entry, actual: int) -> None:
        """Charge what was used, once."""
        amount, windows = entry.hold.amount, entry.hold.windows
        if entry.hold.is_local:
            self.add(windows, actual, 0)
        elif entry.state == "held":
            self.add(windows, actual, -amount)
        else:
            self.add(windows, actual - amount, 0)
        if entry.hold.is_local or actual > amount:
            self.loose.update(windows)
        entry.state = "settled"
