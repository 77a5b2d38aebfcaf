"""What is noted about one request on its way, for logs, metrics, traces and the query log."""

import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import msgspec

RETRIEVAL_STAGES_BACKWARDS = (("rerank",), ("fuse",), ("dense", "sparse"), ("embed",))


class Record(msgspec.Struct):
    """What is noted about one request on its way; `logs` and `Metrics` read it at the end."""

    request_id: str
    started: float
    """time.monotonic() at the first byte of the request."""
    endpoint: str = "unmatched"
    status: int = 0
    outcome: str = ""
    """Empty until known; then a value of the outcome label."""
    error: str = ""
    stages_ms: dict[str, float] = {}
    engine: str = ""
    model: str = ""
    degraded: list[str] = []
    """What had to be left out of the answer."""
    cache: str = "none"
    """How the cache took part: none, exact, semantic, coalesced."""
    answers: bool = False
    """The request was answered through the engine path and belongs in the latency histogram."""
    peer: str = ""
    """The address of the connection."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_eur: float = 0.0
    headers: list[tuple[bytes, bytes]] = []
    """Added to the response: what is left of the caller's limits."""
    shared_from: str = ""
    """The request whose answer this one shared while it was made."""
    generation: str = ""
    """Of the index that it was answered from."""
    passage_ids: Sequence[str] = ()
    prompt_version: str = ""
    """Where it is not the common one."""
    experiment: str = ""
    variant: str = ""
    question: str = ""
    """With LOG_TEXT on alone, as is the answer."""
    answer: str = ""
    trace: Any = None
    """The open span, where tracing is on."""
    trace_id: str = ""
    spans: dict[str, tuple[int, float]] = {}
    """By stage, where traced: its end in ns of the wall clock, its length in ms."""

    def note(self, stage: str, ms: float) -> None:
        """Note a stage that ends now."""
        self.stages_ms[stage] = ms
        if self.trace is not None:
            self.spans[stage] = (time.time_ns(), ms)

    def note_retrieval(self, latency_ms: Mapping[str, float]) -> None:
        """Note the stages of a retrieval that ends now; dense and sparse ran side by side."""
        self.stages_ms = {**latency_ms, **self.stages_ms}
        if self.trace is None:
            return
        ended_ns = time.time_ns()
        for together in RETRIEVAL_STAGES_BACKWARDS:
            ran = [stage for stage in together if stage in latency_ms]
            for stage in ran:
                self.spans.setdefault(stage, (ended_ns, latency_ms[stage]))
            ended_ns -= int(max((latency_ms[stage] for stage in ran), default=0.0) * 1e6)

    def note_variant(self, prompt_version: str, experiment: str, variant: str) -> None:
        """Note which prompts answer, and for which variant of an experiment, if any."""
        self.prompt_version = prompt_version
        self.experiment, self.variant = experiment, variant

    def end_stages(self) -> dict[str, float]:
        """Note the time until now as `total`, and return `latency_ms`."""
        self.stages_ms["total"] = self.elapsed_ms()
        return self.latency_ms()

    def latency_ms(self) -> dict[str, float]:
        """Return the stages' milliseconds as callers and the query log see them."""
        return {stage: round(ms, 2) for stage, ms in self.stages_ms.items()}

    def elapsed_ms(self) -> float:
        return (time.monotonic() - self.started) * 1000


traceparent: ContextVar[str] = ContextVar("traceparent", default="")
"""Of the request being answered, sent along so that the engine's spans join its trace."""
