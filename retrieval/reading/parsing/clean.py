"""Text from files made fit to store and to show: no control characters, no lone surrogates."""

import re

LONGEST_LINE = 300

_UNFIT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def plain(text: str) -> str:
    """With line feeds alone ending lines."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _SURROGATE.sub("\ufffd", _UNFIT.sub("", text))


def one_line(text: str) -> str:
    """For titles and reasons; what is longer is cut."""
    return " ".join(plain(text[: 4 * LONGEST_LINE]).split())[:LONGEST_LINE]
