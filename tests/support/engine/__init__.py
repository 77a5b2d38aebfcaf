"""An LLM engine that says what a test scripts, and how real engines speak, as scripts."""

from tests.support.engine.dialects import DIALECTS, MODEL, answer_json, frame, in_stream, tgi_stream
from tests.support.engine.scripted import (
    DONE,
    Exchange,
    FakeEngine,
    Script,
    delta,
    event,
    saying,
    sending,
    usage,
)

__all__ = [
    "DIALECTS",
    "DONE",
    "MODEL",
    "Exchange",
    "FakeEngine",
    "Script",
    "answer_json",
    "delta",
    "event",
    "frame",
    "in_stream",
    "saying",
    "sending",
    "tgi_stream",
    "usage",
]
