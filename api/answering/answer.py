"""The way of a question, top to bottom: embed, retrieve, prompt, engine, relay, cite.

One generator of events serves every route. It knows no HTTP and times each stage.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing

from api.answering.context import AnswerContext
from api.answering.engine_call import LATE, begin
from api.answering.events import Done, Event, ScoresOut, Source, Sources, Token
from api.answering.prompt import NO_PASSAGES
from api.citations.citer import Citer
from api.citations.types import Citation
from api.citations.verifier import Unverified
from api.engines.client import Finish
from api.errors import DeadlineExceeded, EngineOverloaded, RagError
from api.logs import logger
from api.telemetry.record import Record
from api.usage import NOTHING_USED
from retrieval.search.retriever import Retrieval
from retrieval.types import Float32Array, Hit, QueueFull

NEAR_DEADLINE = 0.5
"""When less than this share of the time is left for the engine, it gets half of the passages, and
nothing is reranked."""
UNVERIFIED = "citations_unverified"
"""In `degraded`; such an answer is not cached, or its citations would stay so."""


async def answer(
    ask: AnswerContext, *, query_embedding: Float32Array | None = None
) -> AsyncGenerator[Event]:
    """Yield Sources, then Tokens with the Citations of their sentences, then Done.

    Raises what `begin` raises, and what the engine raises after its first piece (then with the
    usage so far); an answer without Done is not whole. `query_embedding` is the vector of the
    question where it is known.
    """
    stages, record, request = ask.stages, ask.record, ask.request
    loop = asyncio.get_running_loop()
    record.answers = True
    with stages.metrics.open_streams.track_inprogress():
        try:
            async with asyncio.timeout_at(ask.deadline):
                found = await retrieve(
                    stages.retriever.sources(
                        request.query,
                        stages.n_passages(request),
                        view=ask.view,
                        query_embedding=query_embedding,
                        time_left_s=ask.deadline - loop.time() - NEAR_DEADLINE * stages.deadline_s,
                    ),
                    record,
                )
        except TimeoutError as exc:
            raise DeadlineExceeded(LATE) from exc
        hits = found.hits
        if hits and ask.deadline - loop.time() < NEAR_DEADLINE * stages.deadline_s:
            hits = hits[: (len(hits) + 1) // 2]
            record.degraded.append("fewer_passages")
        sources = [_source(n, hit) for n, hit in enumerate(hits, 1)]
        record.generation = found.generation
        record.passage_ids = [source.passage_id for source in sources]
        yield Sources(sources)
        if not sources:
            record.engine = record.model = ""
            yield Token(NO_PASSAGES)
            yield _done(Finish("no_passages", NOTHING_USED), record, found.generation)
            return

        begun = await begin(ask, sources)
        piece, came_at = begun.first, begun.times.append
        citer, verifier = Citer(request.query, sources), stages.verifier
        text: list[str] = []
        held: list[Citation] = []
        try:
            async with aclosing(begun.rest) as rest:
                while isinstance(piece, str):
                    came_at(time.perf_counter())
                    yield Token(piece)
                    text.append(piece)
                    held += citer.feed(piece)
                    while held and verifier is None:
                        yield held.pop(0)
                    piece = await anext(rest)
            held += citer.finish()
            begun.finish(piece)
        except RagError as error:
            begun.failed(error)
            raise
        finally:
            begun.end()
        held = await _verified(ask, "".join(text), held, sources)
        for citation in held:
            yield citation
        if verifier is not None:
            citer.kinds = Counter(citation.kind for citation in held)
        stages.metrics.count_citations(citer.kinds)
        finish = Finish(piece.finish_reason, begun.usage)
        yield _done(finish, record, found.generation, citer.dropped_markers)


async def _verified(
    ask: AnswerContext, text: str, citations: list[Citation], sources: list[Source]
) -> list[Citation]:
    """Return the citations as the verifier sees them; as they are where there is none."""
    verifier = ask.stages.verifier
    if verifier is None or not citations:
        return citations
    left_s = ask.deadline - asyncio.get_running_loop().time()
    try:
        return await verifier.verified(text, citations, sources, within_s=left_s)
    except Unverified as exc:
        logger.warning("citations not verified", extra={"facts": {"reason": str(exc)}})
        ask.record.degraded.append(UNVERIFIED)
        return citations


async def retrieve(finding: Awaitable[Retrieval], record: Record) -> Retrieval:
    """Wait for passages, and note the time of each stage and what was left out.

    Raises EngineOverloaded.
    """
    try:
        retrieval = await finding
    except QueueFull as exc:
        raise EngineOverloaded("too many questions wait for the embedding model") from exc
    record.note_retrieval(retrieval.latency_ms)
    record.degraded.extend(retrieval.degraded)
    return retrieval


def _source(n: int, hit: Hit) -> Source:
    passage = hit.passage
    return Source(
        n=n,
        doc_id=passage.doc_id,
        passage_id=passage.passage_id,
        title=passage.title,
        text=passage.text,
        start=passage.start,
        end=passage.end,
        scores=scores_out(hit),
    )


def scores_out(hit: Hit) -> ScoresOut:
    scores = hit.scores
    return ScoresOut(scores.dense, scores.sparse, scores.fused, scores.rerank)


def _done(finish: Finish, record: Record, generation: str, dropped_markers: int = 0) -> Done:
    record.stages_ms["total"] = record.elapsed_ms()
    return Done(
        finish_reason=finish.finish_reason,
        usage=finish.usage or NOTHING_USED,
        cost_eur=record.cost_eur,
        latency_ms={stage: round(ms, 2) for stage, ms in record.stages_ms.items()},
        degraded=record.degraded,
        request_id=record.request_id,
        engine=record.engine,
        model=record.model,
        index_generation=generation,
        dropped_markers=dropped_markers,
    )
