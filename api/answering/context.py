"""One question on its way to its answer, and the parts of the app that the answer is made with."""

import msgspec

from api.admission.door import Admitted, Door
from api.answering.prompt import PromptBuilder
from api.answering.request import READ_AND_STORE, AnswerRequest, CacheControl
from api.answering.spending import Spending
from api.citations.verifier import CitationVerifier
from api.engines.client import Sampling
from api.engines.pool import Engines
from api.engines.queue import EngineQueue, Lane
from api.telemetry.metrics import Metrics
from api.telemetry.record import Record
from api.usage import NOTHING_USED, Usage
from retrieval.index.filters import EVERYTHING, View
from retrieval.search.retriever import Retriever


class Stages(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of one app, and the limits of an answer."""

    retriever: Retriever
    engines: Engines
    queue: EngineQueue
    spending: Spending
    door: Door
    prompts: PromptBuilder
    verifier: CitationVerifier | None
    """Of citations; None: words decide."""
    metrics: Metrics
    context_tokens: int
    max_tokens: int
    temperature: float
    top_k: int = 3
    deadline_s: float

    def sampling(self, request: AnswerRequest) -> Sampling:
        return Sampling(
            max_tokens=request.max_tokens or self.max_tokens,
            temperature=self.temperature if request.temperature is None else request.temperature,
        )

    def n_passages(self, request: AnswerRequest) -> int:
        return request.top_k or self.top_k


class AnswerContext(msgspec.Struct, frozen=True, kw_only=True):
    """One question: what is asked, by whom, by which request, until when."""

    request: AnswerRequest
    record: Record
    stages: Stages
    admitted: Admitted
    deadline: float
    """A time of the event loop."""
    pinned: str | None = None
    """The only engine that may answer."""
    lane: Lane = "interactive"
    view: View = EVERYTHING
    """The documents this caller may see."""
    cache_control: CacheControl = READ_AND_STORE
    experiment: str = ""
    """Empty where the question takes part in none, as is the variant."""
    variant: str = ""
    standalone_query: str = ""
    """The rewritten question of `request`; empty where the caller's own words are asked."""
    rewrite_usage: Usage = NOTHING_USED
    """Of the engine that rewrote the question, or tried to."""
    rewrite_cost_eur: float = 0.0
