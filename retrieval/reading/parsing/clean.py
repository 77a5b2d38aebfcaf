"""Clean text that parsers found: no control characters, no lone surrogates, lines end in LF."""

import re

from retrieval.language.characters import CONTROLS

LONGEST_LINE = 300

_SURROGATE = re.compile(r"[\ud800-\udfff]")


def plain(text: str) -> str:
    """The cleaned text."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _SURROGATE.sub("\ufffd", CONTROLS.sub("", text))


def one_line(text: str) -> str:
    """Cleaned, on one line of at most LONGEST_LINE characters: for titles and reasons."""
    return " ".join(plain(text[: 4 * LONGEST_LINE]).split())[:LONGEST_LINE]
