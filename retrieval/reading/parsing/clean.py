"""Text from files made fit to store and to show: no control characters, no lone surrogates."""

import re

from retrieval.language.characters import CONTROLS

LONGEST_LINE = 300

_SURROGATE = re.compile(r"[\ud800-\udfff]")


def plain(text: str) -> str:
    """With line feeds alone ending lines."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _SURROGATE.sub("\ufffd", CONTROLS.sub("", text))


def one_line(text: str) -> str:
    """For titles and reasons; what is longer is cut."""
    return " ".join(plain(text[: 4 * LONGEST_LINE]).split())[:LONGEST_LINE]
