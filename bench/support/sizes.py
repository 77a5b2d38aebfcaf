"""How much a bench measures: all of it, or with BENCH_SMOKE=1 just enough to see that it runs."""

import os
from typing import TypeVar

T = TypeVar("T")

SMOKE = os.environ.get("BENCH_SMOKE") == "1"


def at_size(full: T, smoke: T) -> T:
    """Return what the environment asks for; figures are published from `full` alone."""
    return smoke if SMOKE else full
