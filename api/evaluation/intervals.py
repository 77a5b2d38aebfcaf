"""Exact binomial intervals (Clopper and Pearson 1934, https://doi.org/10.1093/biomet/26.4.404)."""

import math
from collections.abc import Callable

import msgspec
import numpy as np

_ALPHA = 0.05
_STEPS = 50


class Rate(msgspec.Struct, frozen=True):
    """k of n, with the exact 95 % interval of the rate."""

    k: int
    n: int

    @property
    def value(self) -> float:
        return self.k / self.n if self.n else math.nan

    @property
    def low(self) -> float:
        """The p for which k or more of n are as rare as 2.5 %."""
        if self.k == 0:
            return 0.0
        return _root(lambda p: 1 - _cumulative(self.k - 1, self.n, p) - _ALPHA / 2)

    @property
    def high(self) -> float:
        if self.k == self.n:
            return 1.0
        return _root(lambda p: _ALPHA / 2 - _cumulative(self.k, self.n, p))

    def __str__(self) -> str:
        if not self.n:
            return "–"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def _root(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def _cumulative(k: int, n: int, p: float) -> float:
    """P(X <= k) of n draws with probability p."""
    counts = np.arange(1, k + 1)
    log_choices = np.concatenate([[0.0], np.cumsum(np.log((n - counts + 1) / counts))])
    drawn = np.arange(k + 1)
    logs = log_choices + drawn * math.log(p) + (n - drawn) * math.log1p(-p)
    return float(np.exp(logs).sum())
