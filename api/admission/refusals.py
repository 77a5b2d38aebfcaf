"""Why a request is not let in, where a plain error of `api.errors` would not say enough."""

from typing import TYPE_CHECKING

from api import errors

if TYPE_CHECKING:
    from api.admission.gcra import Allowance


class RateLimited(errors.RateLimited):
    """More requests or tokens than the subject may have a minute."""

    def __init__(self, allowance: "Allowance") -> None:
        super().__init__(
            f"more than {allowance.limit} {allowance.unit} a minute",
            retry_after_s=allowance.retry_after_s,
        )
        self.allowance = allowance


class KeysDown(errors.LedgerDown):
    """The key store does not answer, and this process does not know the key."""
