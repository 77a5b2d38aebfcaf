"""GCRA as it is written in the books, with fractions: slow and obvious.

The other form than ours, virtual scheduling by a theoretical arrival time.
"""

from fractions import Fraction

MINUTE_US = 60_000_000


class Reference:
    def __init__(self, limit: int) -> None:
        self.interval = Fraction(MINUTE_US, limit)
        self.limit = limit
        self.arrival = Fraction(0)

    def wait(self, cost: int, now_us: int) -> Fraction:
        """Return for how long it would be refused, in microseconds; 0 if it passes."""
        start = max(self.arrival, Fraction(now_us))
        return max(Fraction(0), start + min(cost, self.limit) * self.interval - now_us - MINUTE_US)

    def add(self, cost: int, now_us: int) -> None:
        self.arrival = max(self.arrival, Fraction(now_us)) + cost * self.interval
        self.arrival = min(self.arrival, Fraction(now_us + 10 * MINUTE_US))

    def remaining(self, now_us: int) -> int:
        ahead = max(Fraction(0), self.arrival - now_us)
        return max(0, int((MINUTE_US - ahead) / self.interval))
