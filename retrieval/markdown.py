"""Headings of Markdown text: ATX (`## Title`) and underlined ones, outside code fences."""

import re
from bisect import bisect_right
from collections.abc import Iterator

import msgspec

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_UNDERLINE = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
_NOT_A_PARAGRAPH = re.compile(r"\s*$|[ \t]*([-*+>|]|\d+[.)])|    |\t")
_MARKS = re.compile(r"[*`]+|!?\[([^\]]*)\]\([^)]*\)|<[^>]+>")


class Heading(msgspec.Struct, frozen=True):
    start: int
    level: int
    title: str


def headings(text: str) -> Iterator[Heading]:
    """In order; `start` is the offset of the heading's line."""
    fence, start, previous = "", 0, (0, "")
    for line in text.splitlines(keepends=True):
        bare = line.rstrip("\r\n")
        if mark := _FENCE.match(bare):
            if not fence:
                fence = mark[1]
            elif mark[1].startswith(fence) and bare.strip() == mark[1]:
                fence = ""
        elif not fence:
            if (atx := _ATX.match(bare)) and atx[2]:
                yield Heading(start, len(atx[1]), _plain(atx[2]))
            elif (under := _UNDERLINE.match(bare)) and not _NOT_A_PARAGRAPH.match(previous[1]):
                yield Heading(previous[0], 1 if under[1][0] == "=" else 2, _plain(previous[1]))
        heading_line = bool(fence) or bare.lstrip().startswith("#")
        previous = (start, "" if heading_line else bare)
        start += len(line)


def first_heading(text: str) -> str | None:
    return next((heading.title for heading in headings(text) if heading.title), None)


class Outline:
    """Which headings hold at an offset of a document."""

    def __init__(self, text: str) -> None:
        self._starts: list[int] = []
        self._paths: list[tuple[str, ...]] = [()]
        path: list[Heading] = []
        for heading in headings(text):
            path = [outer for outer in path if outer.level < heading.level] + [heading]
            self._starts.append(heading.start)
            self._paths.append(tuple(part.title for part in path if part.title))

    def path_at(self, offset: int) -> tuple[str, ...]:
        """Titles from the outermost heading in, of the section that `offset` lies in."""
        return self._paths[bisect_right(self._starts, offset)]


def _plain(title: str) -> str:
    return " ".join(_MARKS.sub(lambda mark: mark[1] or "", title).split())
