"""Differences between engines: routes, sampling fields, overload statuses; one row an engine.

Facts of TGI 3.3.7, vLLM 0.33, llama.cpp b11434 and SGLang's documentation. All share the OpenAI
chat route; sampling beside the temperature is switched off explicitly, since vLLM and SGLang take
defaults from the model's files and llama.cpp has its own, so that every engine answers alike.
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec


class Fact(msgspec.Struct, frozen=True):
    """Where an engine tells something about itself: a route, and the way into its JSON."""

    path: str
    keys: tuple[str | int, ...]

    def find(self, body: Any) -> Any:
        """Return the value, None where the way ends early."""
        for key in self.keys:
            if isinstance(body, dict) and key in body:
                body = body[key]
            elif isinstance(body, Sequence) and isinstance(key, int) and len(body) > key:
                body = body[key]
            else:
                return None
        return body


class Dialect(msgspec.Struct, frozen=True, kw_only=True):
    """How one kind of engine differs from the others."""

    health: str
    """Answers 200 when the model is loaded."""
    model: Fact | None
    """Names the model that is served; None where the engine serves many."""
    context: Fact | None
    """Prompt and answer together, in tokens."""
    asks_for: Literal["served", "configured", "nothing"]
    """The request's `model`: the one found under `model`, PIPELINE_MODEL_NAME, or left out."""
    sampling: dict[str, float | int]
    """Sent with every request. A field an engine does not know is left out, never sent as null."""
    overload: frozenset[int] = frozenset({429})
    """Statuses that mean: no room now, unless the message says that the model is loading."""


_OPENAI_MODELS = Fact("/v1/models", ("data", 0, "id"))

DIALECTS: dict[str, Dialect] = {
    # No presence_penalty (0 becomes a repetition penalty of 2), no top_p of 1 (refused); any
    # other `model` than "tgi" names a LoRA adapter. Absent sampling fields are off.
    "tgi": Dialect(
        health="/health",
        model=Fact("/info", ("model_id",)),
        context=Fact("/info", ("max_total_tokens",)),
        asks_for="nothing",
        sampling={},
    ),
    "vllm": Dialect(
        health="/health",
        model=_OPENAI_MODELS,
        context=Fact("/v1/models", ("data", 0, "max_model_len")),
        asks_for="served",
        sampling={"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
        overload=frozenset({429, 503}),
    ),
    "llamacpp": Dialect(
        health="/health",
        model=_OPENAI_MODELS,
        context=Fact("/props", ("default_generation_settings", "n_ctx")),
        asks_for="served",
        sampling={"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0},
    ),
    "openai": Dialect(
        health="/v1/models", model=None, context=None, asks_for="configured", sampling={}
    ),
}
DIALECTS["sglang"] = DIALECTS["vllm"]
DIALECTS["embedded"] = DIALECTS["llamacpp"]

# The text is all that a TGI stream gives: its http_status_code is 422 for every cause.
OVERLOAD_SIGNS = ("overloaded", "queue", "too many requests", "rate limit")
TOO_LONG_SIGNS = ("max_new_tokens", "context", "maximum", "too long", "inputs", "exceed")
LOADING_SIGNS = ("loading",)
FINISH_REASONS = {"stop_sequence": "stop", "eos_token": "stop"}
