"""Map an engine's error, its HTTP status and message, to one of our errors."""

import msgspec

from api.engines.dialects import LOADING_SIGNS, OVERLOAD_SIGNS, TOO_LONG_SIGNS, Dialect
from api.errors import (
    EngineAuth,
    EngineDown,
    EngineFailed,
    EngineOverloaded,
    PromptTooLong,
    RagError,
)


def message_of(error: object) -> str:
    """Find the message in what engines put under `error`: a string or an object."""
    while isinstance(error, dict):
        error = error.get("error") or error.get("message") or error.get("type") or ""
    return error if isinstance(error, str) else ""


def failed(message: str) -> RagError:
    """Tell overload and a long prompt from other failures by what the engine says."""
    lowered = message.lower()
    if any(sign in lowered for sign in OVERLOAD_SIGNS):
        return EngineOverloaded("the engine is overloaded")
    if "token" in lowered and any(sign in lowered for sign in TOO_LONG_SIGNS):
        return PromptTooLong("the prompt exceeds what the engine accepts")
    return EngineFailed("the engine failed to answer")


def refused(dialect: Dialect, status: int, body: bytes) -> RagError:
    """Map an HTTP error; `body` is its beginning, JSON or not."""
    try:
        message = message_of(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError):
        message = body.decode("utf-8", "replace")
    if status in (401, 403):
        return EngineAuth("the engine refused our key: check ENGINE_API_KEY")
    if status == 404:
        return EngineFailed("the engine does not know the model: check PIPELINE_MODEL_NAME")
    if any(sign in message.lower() for sign in LOADING_SIGNS):
        return EngineDown("the engine is loading its model")
    if status in dialect.overload:
        return EngineOverloaded("the engine is overloaded")
    if status == 503:
        return EngineDown("the engine is not available")
    return failed(message)
