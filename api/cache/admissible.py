"""Normalise a question for exact lookups, and decide whether its answer may be cached at all.

No similarity sees that an answer was only true yesterday, or only for one person: such questions
are known by their words.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Literal

import msgspec

_SPACES = re.compile(r"\s+")
_END = " .?!…。？！"

_TIME_RELATIVE = re.compile(
    r"""\b(?: today | tonight | tomorrow | yesterday | nowadays | currently | at\ the\ moment
    | (?:right|just|as\ of|until|till|by)\ now | now(?=\s*[?.!]*$) | so\ far | up[ -]to[ -]date
    | latest | newest | most\ recent | recently | breaking\ news | up-?coming
    | this\ (?:morning|afternoon|evening|week(?:end)?|month|quarter|year|season)
    | (?:next|last|past)\ (?:\d+\ )?(?:hours?|days?|nights?|weeks?(?:end)?|months?|quarters?|years?
        |(?:mon|tues|wednes|thurs|fri|satur|sun)day)
    | current(?!\ (?:and\ savings\ )?accounts?\b)
    | (?:minutes?|hours?|days?|weeks?)\ ago
    | what(?:'?s|\ is)\ the\ (?:time|date|weather)
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)

_OWN = r"(?:my|our|mine|ours)"
_HOLDINGS = r"""(?:order|parcel|package|delivery|shipment|booking|reservation|appointment|balance
    |statement|bill|invoice|payment|refund|claim|transaction|transfer|deposit|paycheck|salary|payslip
    |application|ticket|dispute|subscription|points|usage|limit|score|results?|grades?|loan|debt
    |account|data|email|password|pin|address|phone\ number|name)s?"""
# What is asked of a state ("when will my parcel come"); how to do something with one's own
# account is the same for all and stays cacheable.
_PERSONAL = re.compile(
    rf"""(?: \bstatus\ of\ {_OWN}\b
    | \b(?:what(?:'?s|\ is|\ was|\ are|\ were)|where(?:'?s|\ is|\ are)|when(?:'?s|\ is|\ was|\ will)
        |how\ (?:much|many)(?:\ \w+)?\ (?:is|are|was|were|do\ i\ owe|is\ left|have\ i)
        |has|have|had|did|was|were|is|are|will|why\ (?:is|was|has|did))
      \ (?:\w+\ ){{0,3}}?{_OWN}\ (?:[\w-]+\ ){{0,2}}?{_HOLDINGS}\b
    | \b(?:show|list|give|send|read|check|tell|track|cancel|refund|pay|transfer|freeze|close|delete)
      \ (?:me\ )?(?:all\ )?(?:of\ )?{_OWN}\ (?:[\w-]+\ ){{0,3}}?{_HOLDINGS}\b
    | \bdo\ i\ (?:still\ )?(?:owe|have\ (?:any|enough|an?)\ (?:\w+\ )?(?:balance|debt|credit))
    | \bhow\ (?:much|many)\ (?:\w+\ ){{0,2}}(?:do|did|have|can)\ i\ (?:owe|earn|spend|spent|left)\b
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_HOW_TO = re.compile(
    r"\b(?:how|where)\ (?:do|can|could|should|would|to|might)\b|\b(?:can|could|may|should|if)\ i\b",
    re.IGNORECASE | re.VERBOSE,
)

Refusal = Literal["time_relative", "personal", "too_long", "cut", "ungrounded", "unknown"]


class Admission(msgspec.Struct, frozen=True):
    """What may be cached for a question: nothing, its exact form, or its meaning as well."""

    exact: bool
    semantic: bool
    reason: Refusal | None = None


_UNKNOWN = re.compile(
    r"""\b(?:(?:do|does|did|could)(?:\ not|n't)\ (?:know|find|contain|mention|say|provide|specify)
    | (?:is|are|was)(?:\ not|n't)\ (?:mentioned|provided|specified|stated|available|enough)
    | no\ (?:information|mention|relevant|answer)|unable\ to|cannot\ (?:answer|find|say|determine)
    | not\ enough\ (?:information|context))\b""",
    re.IGNORECASE | re.VERBOSE,
)
_UNKNOWN_WITHIN = 200
"""Characters at the start in which an answer says that it is none."""

ADMITTED = Admission(exact=True, semantic=True)


@lru_cache(maxsize=4096)
def normalise(question: str) -> str:
    """NFKC, casefolded, single spaces, without punctuation at the end."""
    text = unicodedata.normalize("NFKC", question).casefold().replace("’", "'")
    return _SPACES.sub(" ", text).strip().rstrip(_END)


def admit_question(question: str, *, n_tokens: int = 0, window_tokens: int = 0) -> Admission:
    """Judge a question by its words, and by its length in tokens of the cache's embedding model.

    Beyond the window two long questions have one embedding. 0 leaves the length unjudged.
    """
    text = unicodedata.normalize("NFKC", question).replace("’", "'")
    if _TIME_RELATIVE.search(text):
        return Admission(exact=False, semantic=False, reason="time_relative")
    if _PERSONAL.search(text) and not _HOW_TO.search(text):
        return Admission(exact=False, semantic=False, reason="personal")
    if n_tokens > window_tokens > 0:
        return Admission(exact=True, semantic=False, reason="too_long")
    return ADMITTED


def admit_answer(
    admission: Admission, answer: str, *, finish_reason: str, is_grounded: bool
) -> Admission:
    """Judge the answer to an admitted question.

    `length` is whole as well: max_tokens is part of the partition. "I don't know" is kept for the
    very same question only; the next index generation leaves it behind.
    """
    if not admission.exact:
        return admission
    if finish_reason not in ("stop", "length") or not answer.strip():
        return Admission(exact=False, semantic=False, reason="cut")
    if not is_grounded:
        return Admission(exact=False, semantic=False, reason="ungrounded")
    if _UNKNOWN.search(answer[:_UNKNOWN_WITHIN]):
        return Admission(exact=True, semantic=False, reason="unknown")
    return admission
