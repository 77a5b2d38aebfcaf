"""Numbers, times, ordinals and ids of a text in one canonical form, from digits or from words."""

import re
from collections.abc import Iterator, Sequence

from retrieval.language.data import load_groups

Piece = tuple[str, str, bool]
"""("word" | "number", casefolded text, whether it must count as content)."""

_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)*")
_DECIMAL = re.compile(r"\d+(?:\.\d+)?")
_CLOCK = re.compile(r"(\d{1,2})(?:[:.](\d{2}))?(am|pm)|(\d{1,2}):(\d{2})")
_ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")
_MEASURE = re.compile(r"(\d[\d.,]*?)([^\W\d_]+)")
_LABELLED = re.compile(r"([^\W\d_]+)[-_]?(\d[\d.]*)")
_SEPARATORS = re.compile(r"[-/:_,'+]+")

# One- and two-letter units that follow a number without a space; any other short tail is part
# of an id (6s, 5g, h1b).
_UNITS = frozenset(
    "kg g mg lb lbs oz km m cm mm ft in mi kb mb gb tb h hr hrs s ms l ml w kw v".split()
)
_NUMBERS = {word: int(value) for value, word in load_groups("numbers")}
_SCALES = {word: value for word, value in _NUMBERS.items() if value >= 100}
_SPELT = {word: value for value, word in load_groups("ordinals")}
NUMBER_WORDS = frozenset({*_NUMBERS, *_SPELT})
"""All words that stand for a number or for part of one."""
_ROMAN = {
    word: str(value)
    for value, word in enumerate("ii iii iv v vi vii viii ix x xi xii xiii xiv xv".split(), 2)
    if len(word) > 1
}
_NOT_ORDINAL_AFTER = frozenset("a per every each one".split())


def is_roman(chunk: str) -> bool:
    """Whether a word is a Roman numeral from II to XV; I, V and X alone are letters."""
    return chunk.isupper() and chunk.casefold() in _ROMAN


def read_roman(chunk: str) -> Piece:
    return ("number", _ROMAN[chunk.casefold()], True)


def read_chunk(chunk: str) -> Iterator[Piece]:
    """Take a casefolded chunk that holds a digit apart."""
    if clock := _CLOCK.fullmatch(chunk):
        yield ("number", _clock(clock), True)
    elif _GROUPED.fullmatch(chunk):
        yield ("number", _canonical(chunk), True)
    elif ordinal := _ORDINAL.fullmatch(chunk):
        yield ("number", _canonical(ordinal[1]), True)
    elif (measure := _MEASURE.fullmatch(chunk)) and (len(measure[2]) > 2 or measure[2] in _UNITS):
        yield ("number", _canonical(measure[1]), True)
        yield ("word", measure[2], True)
    elif measure and measure[2] in ("k", "bn"):
        yield ("number", _canonical(measure[1]) + {"k": "000", "bn": "000000000"}[measure[2]], True)
    elif (labelled := _LABELLED.fullmatch(chunk)) and (len(labelled[1]) > 2 or labelled[1] == "v"):
        if labelled[1] != "v":
            yield ("word", labelled[1], True)
        yield ("number", _canonical(labelled[2]), True)
    elif labelled or not _SEPARATORS.search(chunk):
        yield ("number", re.sub(r"[-_.]", "", chunk), True)
    else:
        for part in filter(None, _SEPARATORS.split(chunk)):
            if any(char.isdigit() for char in part):
                yield from read_chunk(part)
            else:
                yield ("word", part, True)


def merge_spelled(pieces: Sequence[Piece]) -> Iterator[Piece]:
    """Turn number words into numbers, and "7 pm" into one time."""
    at = 0
    while at < len(pieces):
        kind, text, _ = pieces[at]
        if kind == "word" and text not in NUMBER_WORDS:
            yield pieces[at]
            at += 1
            continue
        after = pieces[at + 1][1] if at + 1 < len(pieces) else ""
        if kind == "number" and after in ("am", "pm") and (clock := _CLOCK.fullmatch(text + after)):
            yield ("number", _clock(clock), True)
            at += 2
        elif kind == "number" and after in _SCALES and _DECIMAL.fullmatch(text):
            yield ("number", _canonical(f"{float(text) * _SCALES[after]:f}"), True)
            at += 2
        elif kind == "number":
            yield pieces[at]
            at += 1
        elif used := _spelled_length(pieces, at):
            value = _value([piece[1] for piece in pieces[at : at + used]])
            yield ("number", str(value), True)
            at += used
        elif text in _SPELT and not (text == "second" and _is_unit(pieces, at)):
            yield ("number", _SPELT[text], True)
            at += 1
        else:
            yield pieces[at]
            at += 1


def _is_unit(pieces: Sequence[Piece], at: int) -> bool:
    """Whether the "second" here is a span of time."""
    before = pieces[at - 1] if at else ("word", "", False)
    return before[0] == "number" or before[1] in _NOT_ORDINAL_AFTER


def _spelled_length(pieces: Sequence[Piece], at: int) -> int:
    """How many pieces from `at` on spell one number; a lone "one" or scale spells none."""
    end = at
    while end < len(pieces) and pieces[end][0] == "word":
        word = pieces[end][1]
        joins = word == "and" and end > at and pieces[end - 1][1] in _SCALES
        if not (joins or word in _NUMBERS):
            break
        end += 1
    while end > at and pieces[end - 1][1] == "and":
        end -= 1
    first = pieces[at][1]
    is_lone = end - at == 1 and (first == "one" or first in _SCALES)
    return 0 if is_lone else end - at


def _value(words: Sequence[str]) -> int:
    total = current = 0
    for word in words:
        if word in _SCALES:
            current = max(current, 1) * _SCALES[word]
            if _SCALES[word] > 100:
                total, current = total + current, 0
        elif word != "and":
            current += _NUMBERS[word]
    return total + current


def _clock(match: re.Match[str]) -> str:
    hour, minute = int(match[1] or match[4]), match[2] or match[5] or "00"
    if match[3]:
        hour = hour % 12 + 12 * (match[3] == "pm")
    return f"{hour:02}:{minute}"


def _canonical(digits: str) -> str:
    """1,000 → 1000, 007 → 7, 2.50 → 2.5; a version keeps its dots."""
    digits = digits.replace(",", "").strip(".")
    if digits.count(".") == 1:
        digits = digits.rstrip("0").rstrip(".")
    return digits.lstrip("0") or "0" if "." not in digits else digits
