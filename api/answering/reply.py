"""Answer one question of one caller: rewrite a follow-up, ask the cache, else make the answer.

All routes get their events here, so what belongs to the caller alone and not to an answer that
others may share (the bill of a rewrite, the experiment's variant, the text for the log) is added
here and nowhere else.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from api.answering.answer import answer
from api.answering.cached import CachedAnswers
from api.answering.context import AnswerContext
from api.answering.events import Done, Event, Token
from api.answering.follow_up import is_follow_up, rewrite_follow_up


async def reply(
    context: AnswerContext, *, cached: CachedAnswers | None, keeps_text: bool
) -> AsyncGenerator[Event]:
    """Yield Sources, then Tokens with the Citations of their sentences, then Done.

    Without `cached` the answer is always made. `keeps_text`: the question as it was asked and its
    answer, whole or not, are noted on the record. Raises what `answer` raises.
    """
    record, tokens = context.record, list[str]()
    record.answers = True
    record.note_variant(context.stages.prompts.version, context.experiment, context.variant)
    if keeps_text:
        record.question = context.request.query
    try:
        if is_follow_up(context.request):
            context = await rewrite_follow_up(context)
        events = answer(context) if cached is None else await cached.open(context)
        async with aclosing(events):
            async for event in events:
                if keeps_text and isinstance(event, Token):
                    tokens.append(event.token)
                elif isinstance(event, Done):
                    event = with_own_facts(event, context)
                yield event
    finally:
        record.answer = "".join(tokens)


def with_own_facts(done: Done, context: AnswerContext) -> Done:
    """Return the end of an answer with what is true for this caller, whoever it was made for."""
    return msgspec.structs.replace(
        done,
        usage=done.usage + context.rewrite_usage,
        cost_eur=done.cost_eur + context.rewrite_cost_eur,
        standalone_query=context.standalone_query or msgspec.UNSET,
        experiment=context.experiment or msgspec.UNSET,
        variant=context.variant or msgspec.UNSET,
    )
