"""Why the door, or the queue before the engine, turns someone away.

A key that is wrong or has no scope is Unauthorized or Forbidden of `api.errors`.
"""

from typing import TYPE_CHECKING

from api import errors

if TYPE_CHECKING:
    from api.admission.caller import RouteClass
    from api.admission.gcra import Allowance


class RateLimited(errors.RateLimited):
    """More requests or tokens than the subject may have a minute."""

    def __init__(self, route_class: "RouteClass", allowance: "Allowance") -> None:
        super().__init__(
            f"more than {allowance.limit} {allowance.unit} a minute",
            retry_after_s=allowance.retry_after_s,
        )
        self.route_class = route_class
        self.allowance = allowance


class TooManyFailures(errors.RateLimited):
    """Too many wrong keys came from this address."""


class KeysDown(errors.LedgerDown):
    """The key store does not answer, and this process does not know the key."""

    retry_after_s = 5.0


class LimitsDown(errors.LedgerDown):
    """Limits cannot be counted, and nobody may pass uncounted."""

    retry_after_s = 5.0


class Overloaded(errors.EngineOverloaded):
    """The queue before the engine is full, or the wait in it was too long."""
