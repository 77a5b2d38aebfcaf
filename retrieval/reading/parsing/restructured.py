"""Convert reStructuredText to Markdown as far as splitting needs it: titles become headings.

The rest stays as it is written. It takes linear time and no library, so no process of its own.
"""

import re
from collections.abc import Sequence

from retrieval.reading.markdown import as_text

_ADORNMENT = re.compile(r"([!-/:-@[-`{-~])\1{2,}[ \t]*$")
LONGEST_TITLE = 300


def to_markdown(text: str) -> str:
    """Levels follow the order in which adornments first occur, as docutils has it.

    https://docutils.sourceforge.io/docs/ref/rst/restructuredtext.html#sections
    """
    lines = text.splitlines()
    levels: dict[tuple[str, bool], int] = {}
    found: list[str] = []
    at, may_begin = 0, True
    while at < len(lines):
        title, style, used = _section(lines[at : at + 3], may_begin=may_begin)
        if style is None:
            found.append(as_text(lines[at]))
        else:
            level = levels.setdefault(style, len(levels) + 1)
            found.append(f"{'#' * min(level, 6)} {title}")
        may_begin = style is not None or not lines[at].strip()
        at += used
    return "\n".join(found)


def _section(lines: Sequence[str], *, may_begin: bool) -> tuple[str, tuple[str, bool] | None, int]:
    """(title, its adornment and whether it is above too, lines taken); None where none begins.

    A title without an adornment above stands below a blank line or another title.
    """
    first, second, third = (*(line.rstrip() for line in lines), "", "")[:3]
    if _ADORNMENT.match(first) and first == third and _may_head(second.strip(), first):
        return second.strip(), (first[0], True), 3
    if may_begin and first[:1].strip() and _ADORNMENT.match(second) and _may_head(first, second):
        return first, (second[0], False), 2
    return "", None, 1


def _may_head(title: str, adornment: str) -> bool:
    is_title = 0 < len(title) <= LONGEST_TITLE and not _ADORNMENT.match(title)
    return is_title and len(adornment) >= min(len(title), 4)
