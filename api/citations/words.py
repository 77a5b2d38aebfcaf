"""Read from a sentence what citations compare: content words, numbers, names, negated words.

Rougher than the features of the answer cache, and a tenth of their cost: thousands of words of
passages are read for each answer.
"""

import re
from functools import lru_cache

import msgspec

from retrieval.language.numerals import (
    NUMBER_WORDS,
    Piece,
    is_roman,
    merge_spelled,
    read_chunk,
    read_roman,
)
from retrieval.language.vocabulary import FUNCTION_WORDS, NEGATIONS, SIGNS, stem

# Letters and digits with inner punctuation (3.5, don't), bounded, or the sign of a unit.
_CHUNK = re.compile(r"[^\W_]{1,64}(?:[.,:'’][^\W_]{1,24}){0,8}|[%$€£]")
# Chinese and Japanese know no spaces: their words are taken as pairs of characters.
_UNSPACED = re.compile(r"([\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+)")
_NUMBER_WORDS = NUMBER_WORDS - {"one"}
"""Alone, "one" is mostly a pronoun."""
_NOT_NEGATED = frozenset("only just".split())
_WITHIN_NUMBERS = ("and", "one")

Part = tuple[str, str, str]
"""("word" | "function" | "negation" | "number" | "spelt", what is compared, the word)."""


class Words(msgspec.Struct, frozen=True, gc=False):
    """`terms` are stems and numbers, each once, in order."""

    terms: tuple[str, ...]
    numbers: frozenset[str]
    names: frozenset[str]
    """Stems of what is capitalised within the sentence, or holds a digit."""
    negated: frozenset[str]
    """The terms right after a negation."""


def read_sentence(text: str) -> Words:
    """Return what is compared of a sentence."""
    terms: dict[str, None] = {}
    numbers: set[str] = set()
    names: set[str] = set()
    negated: set[str] = set()
    counted: list[Piece] = []
    is_negated = False
    is_first = True
    for chunk in _CHUNK.findall(text):
        for kind, term, word in _parts(chunk):
            if kind == "function" and not (counted or is_negated):
                continue
            if kind in ("number", "spelt") or (counted and word in _WITHIN_NUMBERS):
                counted.append(("number" if kind == "number" else "word", term, False))
                is_negated = False
                continue
            if counted:
                numbers.update(_numbers_of(counted))
                counted.clear()
            if kind == "word":
                terms[term] = None
                if is_negated:
                    negated.add(term)
                    is_negated = False
                if chunk[0].isupper() and not is_first:
                    names.add(term)
            elif kind == "negation":
                is_negated = True
            elif word in _NOT_NEGATED:
                is_negated = False
        is_first = False
    numbers.update(_numbers_of(counted))
    return Words(
        terms=(*terms, *sorted(numbers)),
        numbers=frozenset(numbers),
        names=frozenset(names),
        negated=frozenset(negated),
    )


def _numbers_of(counted: list[Piece]) -> list[str]:
    """Return the numbers of a run of digits and number words: 3 million, twenty-five, 7, 2016."""
    if all(kind == "number" for kind, _, _ in counted):
        return [text for _, text, _ in counted]
    return [text for kind, text, _ in merge_spelled(counted) if kind == "number"]


@lru_cache(maxsize=32_768)
def _parts(chunk: str) -> tuple[Part, ...]:
    """Take one chunk apart; kept, because a corpus has few words."""
    if chunk in SIGNS:
        return (("word", SIGNS[chunk], chunk),)
    if not chunk.isascii() and len(runs := _UNSPACED.split(chunk)) > 1:
        return tuple(part for n, run in enumerate(runs) for part in _run(run, is_unspaced=n % 2))
    if is_roman(chunk):
        return (("number", read_roman(chunk)[1], chunk),)
    lowered = chunk.casefold().replace("’", "'")
    if any(char.isdigit() for char in lowered):
        return tuple(
            ("number", text, text) if kind == "number" else ("word", stem(text), text)
            for kind, text, _ in read_chunk(lowered)
        )
    if lowered.endswith("n't"):
        return (("negation", "not", "not"),)
    parts: list[Part] = []
    for word in re.split(r"[.,:]", lowered.removesuffix("'s")):
        parts += _word(word.replace("'", ""))
    return tuple(parts)


def _run(run: str, *, is_unspaced: int) -> tuple[Part, ...]:
    if not is_unspaced:
        return _parts(run) if run else ()
    pairs = [run[n : n + 2] for n in range(max(1, len(run) - 1))]
    return tuple(("word", pair, pair) for pair in pairs)


def _word(word: str) -> tuple[Part, ...]:
    if not word:
        return ()
    if word in NEGATIONS:
        return (("negation", word, word),)
    if word in _NUMBER_WORDS:
        return (("spelt", word, word),)
    if word in FUNCTION_WORDS:
        return (("function", word, word),)
    return (("word", stem(word), word),)
