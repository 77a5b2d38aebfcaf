"""Check citations with a cross-encoder that reads evidence and sentence together.

Words find the place, the model judges it; and it may find support where no word is shared. Late,
broken or swamped it raises Unverified, and what the words said stands.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from api.citations.markers import MARKER, numbers_of
from api.citations.types import Citation, CitedSpan, Kind, Quotable
from retrieval.models.cross_encoder import Pair, load_cross_encoder, start_judging
from retrieval.models.owner_thread import OwnerThread
from retrieval.types import ModelUnavailable, QueueFull

SUPPORTS_FROM = 0.5
MAX_S = 2.0
"""For all sentences of an answer; none of its tokens waits for it."""
MOST_CHARS = 2000
"""Of evidence; models read some 500 tokens."""
MOST_PAIRS = 64
"""Of an answer; one with more stays as the words have it, rather than half of it."""
BATCH = 16

Place = tuple[int, CitedSpan]
"""Which citation, and where its evidence stands."""


class Unverified(Exception):
    """The verifier gave no verdict; the message says why."""


class CitationVerifier:
    def __init__(self, model: Any, entails: int) -> None:
        """`entails` is the column of the model's output that says yes."""
        self._model = model
        self._entails = entails
        self._owner: OwnerThread[Pair, float] = OwnerThread(
            self._score, name="citation verifier", max_batch=BATCH
        )

    async def verified(
        self,
        text: str,
        citations: Sequence[Citation],
        sources: Sequence[Quotable],
        *,
        within_s: float,
    ) -> list[Citation]:
        """Return the citations of an answer's `text` as the model sees them.

        Raises Unverified.
        """
        places = _places(citations, sources)
        if len(places) > MOST_PAIRS:
            raise Unverified("too much to read")
        by_number = {source.n: source for source in sources}
        pairs = [
            (_quote(span, by_number[span.n]), _claim(text, citations[which]))
            for which, span in places
        ]
        try:
            async with asyncio.timeout(min(within_s, MAX_S)):
                scores = await self._owner.submit_all(pairs)
        except Unverified:
            raise
        except (TimeoutError, QueueFull) as exc:
            raise Unverified("no time") from exc
        except Exception as exc:  # torch raises what it likes; an answer must not fail for it
            raise Unverified(type(exc).__name__) from exc
        found: list[list[tuple[float, CitedSpan]]] = [[] for _ in citations]
        for (which, span), score in zip(places, scores, strict=True):
            if score >= SUPPORTS_FROM:
                found[which].append((score, span))
        seen = {which for which, _ in places}
        return [
            _judged(text, citation, found[which]) if which in seen else citation
            for which, citation in enumerate(citations)
        ]

    def close(self) -> None:
        self._owner.close()

    def _score(self, pairs: list[Pair]) -> Sequence[float]:
        scores = self._model.predict(pairs, show_progress_bar=False, convert_to_numpy=True)
        chosen = scores.reshape(len(pairs), -1)[:, self._entails]
        if not np.isfinite(chosen).all():
            raise Unverified("scores that are not finite")
        return [float(score) for score in chosen]


def load_citation_verifier(
    model_id: str, *, revision: str | None = None, threads: int | None = None
) -> CitationVerifier:
    """Load a cross-encoder that gives one score, or a natural language inference model.

    Raises ModelUnavailable.
    """
    from torch import nn

    model = load_cross_encoder(model_id, revision=revision)
    labels = [str(model.config.id2label[n]).lower() for n in range(model.num_labels)]
    if model.num_labels == 1:
        entails, model.activation_fn = 0, nn.Sigmoid()
    elif "entailment" in labels:
        entails, model.activation_fn = labels.index("entailment"), nn.Softmax(dim=-1)
    else:
        raise ModelUnavailable(f"{model_id} has labels {labels}: none of them is entailment")
    verifier = CitationVerifier(model, entails)
    start_judging(verifier._owner, verifier._score, model_id, threads=threads)
    return verifier


def _places(citations: Sequence[Citation], sources: Sequence[Quotable]) -> list[Place]:
    """The spans that words have found; for a sentence without any, each source whole."""
    places: list[Place] = []
    for which, citation in enumerate(citations):
        spans = citation.sources or [_whole(source) for source in sources]
        places += [(which, span) for span in spans]
    return places


def _whole(source: Quotable) -> CitedSpan:
    return CitedSpan(
        n=source.n,
        doc_id=source.doc_id,
        passage_id=source.passage_id,
        start=source.start,
        end=source.start + len(source.text),
    )


def _quote(span: CitedSpan, source: Quotable) -> str:
    start = span.start - source.start
    quote = source.text[start : start + min(span.end - span.start, MOST_CHARS)]
    return f"{source.title}. {quote}" if source.title else quote


def _claim(text: str, citation: Citation) -> str:
    return MARKER.sub(" ", text[citation.start : citation.end]).strip()


def _judged(text: str, citation: Citation, found: list[tuple[float, CitedSpan]]) -> Citation:
    """The citation with the spans that support it, best first."""
    best_first = sorted(found, key=lambda pair: -pair[0])[:3]
    named = {
        n
        for marker in MARKER.finditer(text, citation.start, citation.end)
        for n in numbers_of(marker)
    }
    kind: Kind = "unsupported"
    if best_first:
        kind = "cited" if any(span.n in named for _, span in best_first) else "inferred"
    return msgspec.structs.replace(
        citation,
        kind=kind,
        score=round(best_first[0][0], 3) if best_first else 0.0,
        sources=[span for _, span in best_first],
    )
