"""How long each stage of a query took, and how much time is left for the next."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Milliseconds by stage; a stage entered twice adds up."""

    def __init__(self, time_left_s: float | None = None) -> None:
        self.ms: dict[str, float] = {}
        self._ends = None if time_left_s is None else time.perf_counter() + time_left_s

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = (time.perf_counter() - started) * 1000
            self.ms[name] = self.ms.get(name, 0.0) + spent

    def left_s(self) -> float | None:
        """Never below 0; None without a limit."""
        return None if self._ends is None else max(0.0, self._ends - time.perf_counter())
