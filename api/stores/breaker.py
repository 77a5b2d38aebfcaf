"""Circuit breaker: stop asking a store that does not answer, and try one call after a pause."""

import time
from collections.abc import Callable

from api.logs import logger

FAILURES = 3
OPEN_S = 5.0


class Breaker:
    """Closed until `failures` calls in a row failed; then open for `open_s`, then one probe."""

    def __init__(
        self,
        name: str,
        *,
        failures: int = FAILURES,
        open_s: float = OPEN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._failures = failures
        self._open_s = open_s
        self._clock = clock
        self._failed = 0
        self._probe_at: float | None = None

    @property
    def is_open(self) -> bool:
        return self._probe_at is not None

    def allows(self) -> bool:
        """Whether to call now; a caller that may, must tell how it went."""
        if self._probe_at is None:
            return True
        if self._clock() < self._probe_at:
            return False
        self._probe_at = self._clock() + self._open_s  # one probe, the others wait for it
        return True

    def succeeded(self) -> None:
        self._failed = 0
        if self.is_open:
            self._probe_at = None
            logger.info("store is back", extra={"facts": {"store": self._name}})

    def failed(self, error: BaseException) -> None:
        self._failed += 1
        if self.is_open:
            self._probe_at = self._clock() + self._open_s
        elif self._failed >= self._failures:
            self._probe_at = self._clock() + self._open_s
            facts = {"store": self._name, "error": type(error).__name__}
            logger.warning("store does not answer", extra={"facts": facts})
