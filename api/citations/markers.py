"""Find citation markers: [1], [2, 3], [1-3], [Passage 1], (source 2), 【1†source】."""

import re

MAX_CHARS = 64
"""Of one marker; what is longer is text."""
OPENERS = "[【［("
_MAX_NUMBERS = 20

_NAME = r"(?:passages?|sources?|documents?|refs?|references?|nos?\.)"
_NUMBERS = (
    r"\^?\d{1,3}(?:\s{0,2}(?:[,;&+]|and|[-–—])\s{0,2}"
    rf"(?:{_NAME}\s{{0,2}})?\^?\d{{1,3}}){{0,{_MAX_NUMBERS - 1}}}"
)
MARKER = re.compile(
    rf"[\[【［]\s{{0,2}}(?:{_NAME}\s{{0,2}})?#?(?P<bare>{_NUMBERS})\s{{0,2}}(?:†[^\]】］\n]{{0,24}})?[\]】］]"
    rf"|\(\s{{0,2}}{_NAME}\s{{0,2}}[\[#]?(?P<named>{_NUMBERS})\]?\s{{0,2}}\)",
    re.IGNORECASE,
)
_RANGE = re.compile(r"(\d+)\s*[-–—]\s*\D{0,12}?(\d+)|(\d+)")


def numbers_of(marker: re.Match[str]) -> list[int]:
    """Return the numbers that a marker names, in order; a range names all that are in it."""
    numbers: list[int] = []
    for first, last, single in _RANGE.findall(marker["bare"] or marker["named"]):
        if single:
            numbers.append(int(single))
        else:
            numbers += range(int(first), min(int(last), int(first) + _MAX_NUMBERS) + 1)
    return numbers[:_MAX_NUMBERS]
