"""Find headings and tables in Markdown text, and escape text and code that is put into it.

Nothing inside a code fence counts. Headings are ATX (`## Title`) and underlined ones, tables those
with a line of dashes below their header.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator

import msgspec

_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_UNDERLINE = re.compile(r" {0,3}(=+|-{2,})[ \t]*$")
_NOT_A_PARAGRAPH = re.compile(r"\s*$|[ \t]*([-*+>|]|\d+[.)])|    |\t")
_MARKS = re.compile(r"[*`]+|!?\[([^\]]*)\]\([^)]*\)|<[^>]+>")
_DASHES = re.compile(r"[ \t]*(?=[^|]*\|)\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$")
_MARKUP = re.compile(r"^([ \t]*)(#{1,6}(?=[ \t]|$)|`{3}|~{3}|=+[ \t]*$|-{2,}[ \t]*$)", re.MULTILINE)

_LONGEST = 1_000
"""Of a heading's line, in characters: the patterns' time grows with the square of the spaces."""


class Heading(msgspec.Struct, frozen=True):
    start: int
    level: int
    title: str


class Table(msgspec.Struct, frozen=True):
    """`head` is the header's line with the dashes below; rows lie from `body` to `end`."""

    head: str
    body: int
    end: int

    @property
    def title(self) -> str:
        cells = map(_plain, self.head.split("\n", 1)[0].strip(" \t\r|").split("|"))
        return " | ".join(filter(None, cells))


def headings(text: str) -> Iterator[Heading]:
    """In order; `start` is the offset of the heading's line."""
    previous = (0, "")
    for start, line, is_code in _lines(text):
        if not is_code and len(line) <= _LONGEST:
            if (atx := _ATX.match(line)) and atx[2]:
                yield Heading(start, len(atx[1]), _plain(atx[2]))
            elif (under := _UNDERLINE.match(line)) and not _NOT_A_PARAGRAPH.match(previous[1]):
                yield Heading(previous[0], 1 if under[1][0] == "=" else 2, _plain(previous[1]))
        is_open = not is_code and len(line) <= _LONGEST and not line.lstrip().startswith("#")
        previous = (start, line if is_open else "")


def tables(text: str) -> Iterator[Table]:
    """In order."""
    above, open_table = (0, ""), (0, 0)
    for start, line, is_code in _lines(text):
        is_row = "|" in line and not is_code
        if any(open_table):
            if not is_row:
                yield Table(text[open_table[0] : open_table[1]], open_table[1], start)
                open_table = (0, 0)
        elif is_row and "|" in above[1] and _DASHES.match(line):
            body = text.find("\n", start) + 1
            open_table = (above[0], body or len(text))
        above = (start, "" if is_code else line)
    if any(open_table):
        yield Table(text[open_table[0] : open_table[1]], open_table[1], len(text))


def first_heading(text: str) -> str | None:
    return next((heading.title for heading in headings(text) if heading.title), None)


class Outline:
    """Which headings hold at an offset of a document, and which table it lies in."""

    def __init__(self, text: str) -> None:
        self._starts: list[int] = []
        self._paths: list[tuple[str, ...]] = [()]
        path: list[Heading] = []
        for heading in headings(text):
            path = [outer for outer in path if outer.level < heading.level] + [heading]
            self._starts.append(heading.start)
            self._paths.append(tuple(part.title for part in path if part.title))
        self._tables = list(tables(text))
        self._bodies = [table.body for table in self._tables]

    def path_at(self, offset: int) -> tuple[str, ...]:
        """Titles from the outermost heading in, of the section that `offset` lies in.

        Among the rows of a table its header comes last, since it stands above what `offset` shows.
        """
        path = self._paths[bisect_right(self._starts, offset)]
        table = self.table_at(offset)
        return (*path, table.title) if table else path

    def table_at(self, offset: int) -> Table | None:
        """The table among whose rows `offset` lies."""
        before = bisect_right(self._bodies, offset)
        table = self._tables[before - 1] if before else None
        return table if table and offset < table.end else None


def as_text(text: str) -> str:
    """The text with a backslash before what Markdown would take for a heading or a fence."""
    return _MARKUP.sub(r"\1\\\2", text)


def as_code(code: str, language: str = "") -> str:
    longest = max((len(run) for run in re.findall(r"`{3,}", code)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"


def _lines(text: str) -> Iterator[tuple[int, str, bool]]:
    """(offset, line without its end, whether it is code or a fence)."""
    fence, start = "", 0
    for line in text.splitlines(keepends=True):
        bare = line.rstrip("\r\n")
        mark = _FENCE.match(bare)
        yield start, bare, bool(fence or mark)
        if mark and not fence:
            fence = mark[1]
        elif mark and mark[1].startswith(fence) and bare.strip() == mark[1]:
            fence = ""
        start += len(line)


def _plain(title: str) -> str:
    return " ".join(_MARKS.sub(lambda mark: mark[1] or "", title).split())
