"""Split text into sentences, streamed or whole; how it is cut into pieces changes nothing.

Where a sentence ends is decided by what stands before it and the word that follows, so the end is
known a word later; markers after the full stop belong to the sentence before. Abbreviations,
initials, decimals, list numbers and lines that go on do not end one; code is text like any other.
"""

import re

from api.citations.markers import MARKER, MAX_CHARS, OPENERS
from retrieval.language.data import load_words
from retrieval.language.vocabulary import FUNCTION_WORDS

Span = tuple[int, int]

MAX_SENTENCE = 1000
"""A longer one is cut at a space: models repeat themselves without end, tables have none."""
LINE_GOES_ON = 60
"""From this length on a line that ends in no full stop may be wrapped."""

_LATIN, _CJK = ".!?…", "。！？｡؟।"
_CANDIDATE = re.compile(rf"[{_LATIN}]+[\"'”’»)\]*_`]*|[{_CJK}]+[」』”’）】\"')]*|\n")
_BLANK = re.compile(r"[^\S\n]*")
_WORD = re.compile(r"[\"'“‘«(\[*_`]*([^\W\d_]*)")
_ITEM = re.compile(r"[-*•–|#>`~]|\d{1,3}[.)]|[A-Za-z][.)]\s|\n")
_BEFORE = re.compile(r"([^\s(\[\"“'*]{1,12})$")
_ITEM_NUMBER = re.compile(r"\s*(?:\d{1,3}|[A-Za-z])$")
_ACRONYM = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]|a\.m|p\.m", re.IGNORECASE)
# A name follows, never a new sentence; after the second, a number does, or it is a word.
_NEVER_LAST = frozenset(load_words("abbreviations_before_name"))
_NUMBERED = frozenset(load_words("abbreviations_before_number"))
# These may end one: it depends on the word after.
_MAYBE_LAST = frozenset(load_words("abbreviations_perhaps_last"))


class Sentences:
    """Takes an answer in pieces; spans are characters of the whole, without blanks around."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._n_chars = 0
        self._offset = 0
        self._from = 0
        self._is_open = False

    def feed(self, piece: str) -> list[tuple[int, str]]:
        """Return (start, sentence) of each that is known to have ended."""
        self._pieces.append(piece)
        self._n_chars += len(piece)
        # Most pieces are a word: nothing to decide.
        if not self._is_open and self._n_chars <= MAX_SENTENCE and not _CANDIDATE.search(piece):
            return []
        return self._take(is_whole=False)

    def finish(self) -> list[tuple[int, str]]:
        """Return those that are left, once the text has ended."""
        return self._take(is_whole=True)

    def _take(self, *, is_whole: bool) -> list[tuple[int, str]]:
        text, at = "".join(self._pieces), 0
        found: list[tuple[int, str]] = []
        while at < len(text):
            window = text[at : at + MAX_SENTENCE + 1]
            is_last = is_whole and at + len(window) == len(text)
            end, self._from = _first_end(window, self._from, is_last)
            if end is None and len(window) > MAX_SENTENCE:
                end = _cut(window)
            elif end is None and is_last:
                end = len(window)
            if end is None:
                break
            if sentence := _trimmed(window, self._offset + at, end):
                found.append(sentence)
            at, self._from = at + end, 0
        self._offset += at
        rest = text[at:]
        self._pieces, self._n_chars = [rest], len(rest)
        self._is_open = self._from < len(rest)
        return found


def split(text: str) -> list[Span]:
    """Return the span of each sentence of a whole text."""
    sentences = Sentences()
    found = [*sentences.feed(text), *sentences.finish()]
    return [(start, start + len(sentence)) for start, sentence in found]


def _trimmed(window: str, offset: int, end: int) -> tuple[int, str] | None:
    sentence = window[:end]
    stripped = sentence.strip()
    return (offset + sentence.index(stripped), stripped) if stripped else None


def _cut(window: str) -> int:
    return window.rfind(" ", MAX_SENTENCE // 2, MAX_SENTENCE) + 1 or MAX_SENTENCE


def _first_end(text: str, start: int, is_whole: bool) -> tuple[int | None, int]:
    """Return where the first sentence ends, or None and from where on to look again."""
    for found in _CANDIDATE.finditer(text, start):
        if found.group() == "\n":
            end = _end_of_line(text, found.start(), is_whole)
        else:
            end = _end_of_stop(text, found, is_whole)
        if end is not None and end < 0:
            return None, found.start()
        if end is not None:
            return end, 0
    return None, len(text)


_NOT_YET = -1


def _end_of_line(text: str, at: int, is_whole: bool) -> int | None:
    after = _blank_end(text, at + 1)
    if after == len(text):
        return at + 1 if is_whole else _NOT_YET
    if len(text) - after < 6 and not is_whole:
        return _NOT_YET
    markers = _line_of_markers(text, at, is_whole)
    if markers is not None:
        return markers
    begun = text.rfind("\n", 0, at) + 1
    goes_on = at - begun >= LINE_GOES_ON and not _ITEM.match(text, after)
    return None if goes_on else at + 1


def _end_of_stop(text: str, stop: re.Match[str], is_whole: bool) -> int | None:
    end = _markers_end(text, stop.end(), is_whole)
    if end == _NOT_YET:
        return _NOT_YET
    if end > stop.end() or stop.group()[0] in _CJK:
        return end
    if end == len(text):
        return end
    if not text[end].isspace():
        return None
    after = _blank_end(text, end)
    if after == len(text):
        return end if is_whole else _NOT_YET
    if text[after] == "\n":
        markers = _line_of_markers(text, after, is_whole)
        return end if markers is None else markers
    word = _WORD.match(text, after)
    if word is None:
        raise RuntimeError("the pattern matches nothing too. This is a bug.")
    if word.end() == len(text) and not is_whole:
        return _NOT_YET
    return end if _ends(text, stop, word.group(1), text[after]) else None


def _ends(text: str, stop: re.Match[str], next_word: str, next_char: str) -> bool:
    """Whether a stop ends its sentence, by the word before and the word after."""
    if next_word[:1].islower():
        return False
    if stop.group()[0] != "." or stop.group().startswith(".."):
        return True
    if _ITEM_NUMBER.fullmatch(text, text.rfind("\n", 0, stop.start()) + 1, stop.start()):
        return False
    before = _BEFORE.search(text, max(0, stop.start() - 12), stop.start())
    word = before.group(1).casefold() if before else ""
    if word in _NEVER_LAST or (word in _NUMBERED and next_char.isdigit()):
        return False
    is_unsure = word in _MAYBE_LAST or len(word) == 1 or _ACRONYM.fullmatch(word)
    return not (is_unsure and word.isascii()) or next_word.casefold() in FUNCTION_WORDS


def _line_of_markers(text: str, newline: int, is_whole: bool) -> int | None:
    """Return the end of the markers that are all of the next line: they speak of this one."""
    end = _markers_end(text, newline + 1, is_whole)
    if end in (_NOT_YET, newline + 1):
        return None if end > 0 else _NOT_YET
    after = _blank_end(text, end)
    if after == len(text):
        return end if is_whole else _NOT_YET
    return end if text[after] == "\n" else None


def _markers_end(text: str, at: int, is_whole: bool) -> int:
    """Return where the markers that stand at `at` end, blanks between them; `at` for none."""
    end = at
    while True:
        after = _blank_end(text, end)
        if after == len(text):
            return end if is_whole else _NOT_YET
        if text[after] not in OPENERS:
            return end
        marker = MARKER.match(text, after, after + MAX_CHARS)
        if marker is None:
            could_become = len(text) - after < MAX_CHARS and not is_whole
            return _NOT_YET if could_become else end
        end = marker.end()
        while end < len(text) and text[end] in ".,;":
            end += 1


def _blank_end(text: str, at: int) -> int:
    blank = _BLANK.match(text, at)
    return blank.end() if blank else at
