"""Everything a caller can be told, as one tree and one table.

    RagError
    ├── Malformed, TooLarge, UnsupportedMediaType, Invalid, PromptTooLong   the request
    ├── Unauthorized, Forbidden, NotFound, MethodNotAllowed, Conflict       the door
    ├── RateLimited, BudgetExhausted, LedgerDown                            limits and money
    ├── EngineOverloaded, EngineAuth, EngineFailed, EngineDown              the engine
    │   └── EngineDisconnect, EngineSilent                                  … mid-answer
    ├── Loading, NoIndex, IndexNotWritable, CacheDown, ShuttingDown         ourselves
    ├── DatabaseDown                                                        the log
    └── DeadlineExceeded

Foreign errors become one of these in the module that owns the client. The wire form is
`ErrorBody`, the same in a response and in an SSE `error` event.
"""

from typing import NamedTuple

import msgspec

from api.usage import Usage


class RagError(Exception):
    """`message` is shown to the caller: it never holds user text, secrets or addresses."""

    retry_after_s: float | None = None
    usage: Usage | None = None
    """What the engine had made when the answer broke off."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s


class Malformed(RagError): ...


class Unauthorized(RagError): ...


class Forbidden(RagError): ...


class NotFound(RagError): ...


class MethodNotAllowed(RagError): ...


class Conflict(RagError):
    """An Idempotency-Key that stands for another request, or for one that is still running; the id
    of a document that is someone else's."""


class TooLarge(RagError): ...


class UnsupportedMediaType(RagError): ...


class Invalid(RagError):
    """A field is missing, unknown or out of its bound; the message names both."""


class PromptTooLong(RagError):
    """Question and history alone exceed the engine's context, with every passage left out."""


class RateLimited(RagError):
    """More than the caller may ask for a minute."""


class BudgetExhausted(RagError):
    """The worst case of this answer does not fit into what is left of a budget."""


class LedgerDown(RagError):
    """What must be counted cannot be: limits, money or keys."""

    retry_after_s = 5.0


class EngineOverloaded(RagError):
    retry_after_s = 1.0


class EngineAuth(RagError):
    """The engine refused our key; the message names the setting that holds it."""


class EngineFailed(RagError):
    """The engine answered with an error, or with something that is no answer."""


class EngineDown(RagError):
    """Nothing answers at the engine's address, or it is still loading its model."""

    retry_after_s = 2.0


class EngineDisconnect(RagError):
    """The stream ended without a finish reason: what came so far is not an answer."""


class EngineSilent(RagError):
    """No token within the limit. Keep-alive comments do not count."""


class Loading(RagError):
    retry_after_s = 2.0


class NoIndex(RagError):
    retry_after_s = 30.0


class IndexNotWritable(RagError):
    """The disk is full, another process holds a lock, or too much waits to be indexed."""

    retry_after_s = 5.0


class CacheDown(RagError):
    """The cache's store must agree to what was asked, and does not answer."""

    retry_after_s = 5.0


class DatabaseDown(RagError):
    """The log's database must answer to what was asked, and does not."""

    retry_after_s = 5.0


class ShuttingDown(RagError):
    retry_after_s = 5.0


class DeadlineExceeded(RagError): ...


class Answer(NamedTuple):
    """How one kind of error is answered and counted."""

    status: int
    code: str
    retryable: bool
    outcome: str


ERRORS: dict[type[BaseException], Answer] = {
    Malformed: Answer(400, "malformed", False, "bad_request"),
    Unauthorized: Answer(401, "unauthorized", False, "rejected_auth"),
    Forbidden: Answer(403, "forbidden", False, "rejected_auth"),
    NotFound: Answer(404, "not_found", False, "bad_request"),
    MethodNotAllowed: Answer(405, "method_not_allowed", False, "bad_request"),
    Conflict: Answer(409, "conflict", False, "bad_request"),
    TooLarge: Answer(413, "too_large", False, "bad_request"),
    UnsupportedMediaType: Answer(415, "unsupported_media_type", False, "bad_request"),
    Invalid: Answer(422, "invalid", False, "bad_request"),
    PromptTooLong: Answer(422, "prompt_too_long", False, "bad_request"),
    RateLimited: Answer(429, "rate_limited", True, "rejected_rate"),
    BudgetExhausted: Answer(429, "budget_exhausted", True, "rejected_budget"),
    LedgerDown: Answer(503, "ledger_down", True, "unavailable"),
    EngineOverloaded: Answer(429, "engine_overloaded", True, "rejected_overload"),
    EngineAuth: Answer(502, "engine_auth", False, "engine_error"),
    EngineFailed: Answer(502, "engine_error", True, "engine_error"),
    EngineDisconnect: Answer(502, "engine_disconnect", True, "engine_error"),
    EngineSilent: Answer(504, "engine_silent", True, "timeout"),
    EngineDown: Answer(503, "engine_down", True, "unavailable"),
    Loading: Answer(503, "loading", True, "unavailable"),
    NoIndex: Answer(503, "no_index", True, "unavailable"),
    IndexNotWritable: Answer(503, "index_unwritable", True, "unavailable"),
    CacheDown: Answer(503, "cache_down", True, "unavailable"),
    DatabaseDown: Answer(503, "database_down", True, "unavailable"),
    ShuttingDown: Answer(503, "shutting_down", True, "unavailable"),
    DeadlineExceeded: Answer(504, "deadline", True, "timeout"),
}
INTERNAL = Answer(500, "internal", False, "internal_error")


def answer_for(error: BaseException) -> Answer:
    """Return the table row of the error's nearest ancestor, or 500 for a bug of ours."""
    return next((ERRORS[cls] for cls in type(error).__mro__ if cls in ERRORS), INTERNAL)


def retry_after(error: BaseException) -> dict[str, str]:
    """Return the Retry-After header of an error that knows when to come back, in whole seconds."""
    if not isinstance(error, RagError) or error.retry_after_s is None:
        return {}
    return {"Retry-After": str(max(1, round(error.retry_after_s)))}


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    code: str
    message: str
    request_id: str
    retryable: bool
    usage: Usage | None = None
    """What the engine had already produced when the answer broke off."""


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    error: ErrorDetail
    detail: str
    """The message once more, where HTTP clients commonly look for it."""

    @classmethod
    def of(cls, error: BaseException, request_id: str) -> "ErrorBody":
        """Describe `error`; a bug of ours is reported without its text."""
        row = answer_for(error)
        message = error.message if isinstance(error, RagError) else "Internal error"
        detail = ErrorDetail(
            code=row.code,
            message=message,
            request_id=request_id,
            retryable=row.retryable,
            usage=error.usage if isinstance(error, RagError) else None,
        )
        return cls(error=detail, detail=message)
