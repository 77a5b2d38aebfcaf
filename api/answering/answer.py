"""Make one answer, top to bottom: retrieve passages, ask the engine, relay its tokens, cite.

One generator of events serves every route. It knows no HTTP and times each stage.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable

from api.answering.context import AnswerContext
from api.answering.engine_call import LATE, begin
from api.answering.events import Done, Event, ScoresOut, Source, Sources, Token
from api.answering.prompt import NO_PASSAGES
from api.citations.citer import Citer
from api.citations.types import Citation
from api.citations.verifier import Unverified
from api.errors import DeadlineExceeded, EngineOverloaded
from api.logs import logger
from api.telemetry.record import Record
from api.usage import NOTHING_USED, Usage
from retrieval.search.retriever import Retrieval
from retrieval.types import Float32Array, Hit, QueueFull

NEAR_DEADLINE = 0.5
"""When less than this share of the time is left for the engine, it gets half of the passages, and
nothing is reranked."""
UNVERIFIED = "citations_unverified"
"""In `degraded`; such an answer is not cached, or its citations would stay so."""


async def answer(
    context: AnswerContext, *, query_embedding: Float32Array | None = None
) -> AsyncGenerator[Event]:
    """Yield Sources, then Tokens with the Citations of their sentences, then Done.

    Raises what `begin` raises, and what the engine raises after its first piece (then with the
    usage so far); an answer without Done is not whole. `query_embedding` is the vector of the
    question where it is known.
    """
    stages, record, request = context.stages, context.record, context.request
    loop = asyncio.get_running_loop()
    for_engine_s = NEAR_DEADLINE * stages.deadline_s
    with stages.metrics.open_streams.track_inprogress():
        try:
            async with asyncio.timeout_at(context.deadline):
                found = await retrieve(
                    stages.retriever.sources(
                        request.query,
                        stages.n_passages(request),
                        view=context.view,
                        query_embedding=query_embedding,
                        time_left_s=context.deadline - loop.time() - for_engine_s,
                    ),
                    record,
                )
        except TimeoutError as exc:
            raise DeadlineExceeded(LATE) from exc
        hits = found.hits
        if hits and context.deadline - loop.time() < for_engine_s:
            hits = hits[: (len(hits) + 1) // 2]
            record.degraded.append("fewer_passages")
        sources = [_source(n, hit) for n, hit in enumerate(hits, 1)]
        record.generation = found.generation
        record.passage_ids = [source.passage_id for source in sources]
        yield Sources(sources)
        if not sources:
            record.engine = record.model = ""
            yield Token(NO_PASSAGES)
            yield _done("no_passages", NOTHING_USED, record)
            return

        citer, verifier = Citer(request.query, sources), stages.verifier
        text: list[str] = []
        held: list[Citation] = []
        async with await begin(context, sources) as call:
            async for piece in call:
                yield Token(piece)
                text.append(piece)
                held += citer.feed(piece)
                while held and verifier is None:
                    yield held.pop(0)
        held += citer.finish()
        held = await _verified(context, "".join(text), held, sources)
        for citation in held:
            yield citation
        if verifier is not None:
            citer.kinds = Counter(citation.kind for citation in held)
        stages.metrics.count_citations(citer.kinds)
        yield _done(call.finish_reason, call.usage, record, citer.dropped_markers)


async def _verified(
    context: AnswerContext, text: str, citations: list[Citation], sources: list[Source]
) -> list[Citation]:
    """Return the citations as the verifier sees them; as they are where there is none."""
    verifier = context.stages.verifier
    if verifier is None or not citations:
        return citations
    left_s = context.deadline - asyncio.get_running_loop().time()
    try:
        return await verifier.verified(text, citations, sources, within_s=left_s)
    except Unverified as exc:
        logger.warning("citations not verified", extra={"facts": {"reason": str(exc)}})
        context.record.degraded.append(UNVERIFIED)
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


def _done(finish_reason: str, usage: Usage, record: Record, dropped_markers: int = 0) -> Done:
    return Done(
        finish_reason=finish_reason,
        usage=usage,
        cost_eur=record.cost_eur,
        latency_ms=record.end_stages(),
        degraded=list(record.degraded),
        request_id=record.request_id,
        engine=record.engine,
        model=record.model,
        index_generation=record.generation,
        dropped_markers=dropped_markers,
    )
