"""Parse a question into what the vetoes compare: words, numbers, negations, names."""

import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache

import msgspec

from retrieval.language.numerals import Piece, is_roman, merge_spelled, read_chunk, read_roman
from retrieval.language.vocabulary import (
    FUNCTION_WORDS,
    NEGATIONS,
    RELATING,
    SIGNS,
    SPELLINGS,
    stem,
)

# Letters and digits with inner punctuation (3.5, D-7781, don't, U.S.), or the sign of a unit.
_CHUNK = re.compile(r"[^\W_]+(?:[.,:'/_+-]+[^\W_]+)*[+#]*|[£$€¥₹%]")
_BEFORE_SENTENCE = frozenset('.!?:;"“([')
_ACRONYM = re.compile(r"(?:[a-z]\.)+[a-z]")
_INNER = re.compile(r"[.,:/_]+")
_DIGIT = re.compile(r"\d")
_NO_NEGATION = re.compile(
    r"\bor(?: why)? not\b|\bnot only\b|\bif not\b|\bno\.? (?=\d)", re.IGNORECASE
)
_CONTRACTED = {"ca": "can", "wo": "will", "sha": "shall", "ai": "is"}
_ENDINGS = frozenset("s re ll d ve m".split())
_PARTICLES = frozenset("in on up to by of at as no".split())
_JOINED = frozenset("non un anti pre post over under hyper hypo multi semi".split())
_SHOUTED = 0.6
"""From this share of capitalised words on, capitals mark no names."""
_ROLE_WORDS = 3


class Features(msgspec.Struct, frozen=True, gc=False):
    """What one question says, in a form that can be compared."""

    words: tuple[str, ...]
    """Every word, stemmed, in order, numbers left out."""
    content: tuple[str, ...]
    """What is neither a function word nor left out, numbers included, in order."""
    numbers: tuple[str, ...]
    entities: tuple[str, ...]
    roles: tuple[tuple[str, ...], ...]
    """(preposition, the content words right after it)."""
    negations: int
    says_one: bool
    """"one" occurs, which may or may not count something."""


@lru_cache(maxsize=16_384)
def read_question(question: str) -> Features:
    """Kept by question rather than on each entry: at 100,000 entries they would weigh 80 MB."""
    text = unicodedata.normalize("NFKC", question).replace("’", "'").replace("‘", "'")
    text = _NO_NEGATION.sub(" ", text)
    names: list[str] = []
    pieces = list(merge_spelled(_pieces(text, names)))
    words: list[str] = []
    content: list[str] = []
    roles: list[list[str]] = []
    negations = 0
    open_role: list[str] | None = None
    preposition = ""
    for kind, text_of, forced in pieces:
        part = sys.intern(text_of if kind == "number" else stem(text_of))
        if kind == "word":
            words.append(part)
            negations += text_of in NEGATIONS
            if text_of in FUNCTION_WORDS and not forced:
                preposition = text_of if text_of in RELATING else preposition
                open_role = None
                continue
        content.append(part)
        if preposition:
            open_role = [sys.intern(preposition)]
            roles.append(open_role)
            preposition = ""
        if open_role is not None and len(open_role) <= _ROLE_WORDS:
            open_role.append(part)
    return Features(
        words=tuple(words),
        content=tuple(content),
        numbers=tuple(text_of for kind, text_of, _ in pieces if kind == "number"),
        entities=tuple(dict.fromkeys(stem(name) for name in names)),
        roles=tuple(tuple(role) for role in roles),
        negations=negations,
        says_one="one" in words,
    )


def _pieces(text: str, names: list[str]) -> list[Piece]:
    """Take the text apart; add the words that are names to `names`."""
    pieces: list[Piece] = []
    chunks = list(_CHUNK.finditer(text))
    has_capitals = _has_meaningful_capitals([chunk.group() for chunk in chunks])
    negator = ""
    for match in chunks:
        chunk = match.group()
        lowered = chunk.casefold()
        if chunk.isalpha():
            if is_roman(chunk):
                pieces.append(read_roman(chunk))
                continue
            if chunk[-1] == "s" and len(chunk) > 2 and chunk[:-1].isupper():
                lowered = lowered[:-1]  # TVs
            words: Iterable[str] = SPELLINGS.get(lowered) or (lowered,)
        elif chunk in SIGNS:
            pieces.append(("word", SIGNS[chunk], True))
            continue
        elif _DIGIT.search(chunk):
            pieces += read_chunk(lowered)
            continue
        else:
            words = _split(lowered)
        is_name = has_capitals and chunk != lowered and _is_name(chunk, text, match.start())
        if is_name and lowered in FUNCTION_WORDS and not chunk.isupper():
            is_name = False  # a capital for emphasis
        for word in filter(None, words):
            if word == "non":
                negator = word
                continue
            word, negator = negator + word, ""
            if is_name:
                names.append(word)
            pieces.append(("word", word, is_name or "-" in chunk))
    return pieces


def _has_meaningful_capitals(chunks: list[str]) -> bool:
    lettered = [chunk for chunk in chunks if chunk[0].isalpha()]
    capitalised = [chunk for chunk in lettered if chunk[0].isupper()]
    return len(lettered) < 3 or len(capitalised) < _SHOUTED * len(lettered)


def _is_name(chunk: str, text: str, start: int) -> bool:
    if chunk == "I" or chunk.startswith("I'"):
        return False
    if not chunk[1:].islower() and chunk[1:] != chunk[1:].casefold():
        return True
    before = text[:start].rstrip()
    return chunk[0].isupper() and bool(before) and before[-1] not in _BEFORE_SENTENCE


def _split(chunk: str) -> Iterator[str]:
    """Words of a casefolded chunk: contractions opened, compounds cut, acronyms joined."""
    if _ACRONYM.fullmatch(chunk):
        joined = chunk.replace(".", "")
        yield from SPELLINGS.get(joined, (joined,))
        return
    for part in _INNER.split(chunk):
        if part.endswith("n't"):
            yield _CONTRACTED.get(part[:-3], part[:-3])
            yield "not"
        elif "'" in part:
            head, _, ending = part.rpartition("'")
            word = (head if ending in _ENDINGS else part).replace("'", "")
            yield from SPELLINGS.get(word, (word,))
        elif "-" in part:
            yield from _cut_compound(part.split("-"))
        else:
            yield from SPELLINGS.get(part, (part,))


def _cut_compound(parts: list[str]) -> Iterator[str]:
    """check-in → check in; e-mail, wi-fi, non-member → one word."""
    is_short = any(len(part) <= 2 and part not in _PARTICLES for part in parts)
    if is_short or parts[0] in _JOINED:
        yield "".join(parts)
    else:
        yield from filter(None, parts)
