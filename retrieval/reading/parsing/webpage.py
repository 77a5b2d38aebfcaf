"""Convert HTML to Markdown from a stream of tags; deep nesting or missing ends do no harm.

Navigation, footers, scripts and styles are left out; links keep their text, images their
description. Word documents come through here too.
"""

import codecs
import re
from html.parser import HTMLParser

from retrieval.reading.markdown import as_code, as_text
from retrieval.reading.parsing.tables import Cell, table_records
from retrieval.reading.parsing.wire import Parsed, ParseLimits

HEADINGS = {"h1": 1, "h2": 2, "h3": 3, "h4": 4, "h5": 5, "h6": 6}
BLOCKS = frozenset(
    "address article aside blockquote body caption center dd details div dl dt fieldset figcaption"
    " figure form header hr html main ol option p section summary ul".split()
)
NEVER_SHOWN = frozenset(("script", "style", "svg", "template"))
AROUND = frozenset(("footer", "nav"))
AROUND_ROLES = frozenset(("contentinfo", "navigation", "search"))
DEEPEST = 20
"""Tables within tables; the rows of deeper ones count as paragraphs."""
INDENTS = 5

_CHARSET = re.compile(rb"""<meta[^>]{1,200}?charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.IGNORECASE)
_LINE_END = re.compile(r"[\r\n]")
_ITEM = re.compile(r" *(?:- |\d+\. )")
_STRUCTURE = ("#", "```")


def parse(content: bytes, limits: ParseLimits) -> Parsed:
    page = decode(content)
    text, title = to_markdown(page)
    return Parsed(text, title)


def decode(content: bytes) -> str:
    """By byte order mark, else by <meta charset>, else UTF-8, else Windows-1252, as browsers do."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    declared = _CHARSET.search(content[:4096])
    label = declared[1].decode("ascii") if declared else ""
    # https://html.spec.whatwg.org/#prescan-a-byte-stream-to-determine-its-encoding: a <meta> that
    # could be read is not in UTF-16.
    if label and not label.lower().startswith(("utf", "unicode")):
        try:
            return content.decode(label, "replace")
        except LookupError:
            pass
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("windows-1252", "replace")


def to_markdown(page: str) -> tuple[str, str]:
    """(text, title). A page that is all navigation, or never ends it, is read with it."""
    reader = _Reader(NEVER_SHOWN | AROUND, AROUND_ROLES)
    text = reader.read(page)
    if reader.skipping or not text:
        reader = _Reader(NEVER_SHOWN, frozenset())
        text = reader.read(page)
    return text, reader.title


class _Table:
    def __init__(self) -> None:
        self.rows: list[list[Cell]] = []
        self.cell: _OpenCell | None = None
        self.holds_tables = False
        self.parts: list[list[str]] = []
        """Blocks of each cell."""

    def blocks(self) -> list[str]:
        """Records; or what the cells hold, where the table only lays out a page."""
        blocks = [block for part in self.parts for block in part]
        is_layout = self.holds_tables or any(block.startswith(_STRUCTURE) for block in blocks)
        if is_layout or max(map(len, self.rows), default=0) < 2:
            return blocks
        return table_records(self.rows)


class _OpenCell:
    def __init__(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.is_th = tag == "th"
        self.is_bold = True
        self.colspan = _span(attributes.get("colspan"))
        self.rowspan = _span(attributes.get("rowspan"))


class _Reader(HTMLParser):
    """Fills `sinks`, the lists of finished blocks: of the page, and of each open cell inside it."""

    def __init__(self, skipped: frozenset[str], skipped_roles: frozenset[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self.skipping = ""
        self._skipped = skipped
        self._skipped_roles = skipped_roles
        self._skip_depth = 0
        self._in_title = False
        self._in_pre = False
        self._bold = 0
        self._lists: list[int | None] = []
        self._prefix = ""
        self._line: list[str] = []
        self._sinks: list[list[str]] = [[]]
        self._tables: list[_Table] = []
        self._deeper_tables = 0

    def read(self, page: str) -> str:
        self.feed(page)
        self.close()
        while self._tables:
            self._end_table()
        self._end_block()
        return join_blocks(self._sinks[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_title = tag == "title" and not self.title and not self.skipping
        if self.skipping:
            self._skip_depth += tag == self.skipping
        elif tag in self._skipped or (
            tag in BLOCKS and dict(attrs).get("role") in self._skipped_roles
        ):
            self._end_block()
            self.skipping, self._skip_depth = tag, 1
        elif tag == "br":
            self._line.append("\n")
        elif tag == "img":
            self._line.append(dict(attrs).get("alt") or "")
        elif tag in ("b", "strong"):
            self._bold += 1
        elif tag in HEADINGS:
            self._end_block()
            self._prefix = "#" * HEADINGS[tag] + " "
        elif tag == "li":
            self._end_block()
            self._prefix = self._bullet()
        elif tag == "pre":
            self._end_block()
            self._in_pre = True
        elif tag == "table":
            self._start_table()
        elif tag in ("tr", "td", "th"):
            self._start_cell(tag, dict(attrs))
        elif tag in BLOCKS:
            self._break()
            if tag in ("ol", "ul"):
                self._lists.append(0 if tag == "ol" else None)

    def handle_endtag(self, tag: str) -> None:
        if self.skipping:
            self._skip_depth -= tag == self.skipping
            self.skipping = self.skipping if self._skip_depth else ""
        elif tag == "title":
            self._in_title = False
        elif tag in ("b", "strong"):
            self._bold = max(0, self._bold - 1)
        elif tag in HEADINGS or tag == "li":
            self._end_block()
            self._prefix = ""
        elif tag == "pre":
            self._end_block()
            self._in_pre = False
        elif tag == "table":
            self._end_table()
        elif tag in ("tr", "td", "th"):
            self._end_cell()
        elif tag in BLOCKS:
            self._break()
            if tag in ("ol", "ul") and self._lists:
                self._lists.pop()
                self._prefix = ""

    def handle_data(self, data: str) -> None:
        if self.skipping:
            return
        if self._in_title:
            self.title += data
            return
        self._line.append(data if self._in_pre else _LINE_END.sub(" ", data))
        if self._tables and self._tables[-1].cell and not self._bold and not data.isspace():
            self._tables[-1].cell.is_bold = False

    def _bullet(self) -> str:
        indent = "  " * min(len(self._lists) - 1, INDENTS)
        if not self._lists or self._lists[-1] is None:
            return f"{indent}- "
        self._lists[-1] += 1
        return f"{indent}{self._lists[-1]}. "

    def _break(self) -> None:
        if self._in_pre:
            self._line.append("\n")
        else:
            self._end_block()

    def _end_block(self) -> None:
        text = "".join(self._line)
        self._line.clear()
        if self._in_pre:
            if text.strip():
                self._sinks[-1].append(as_code(text.strip("\n")))
            return
        lines = filter(None, (" ".join(line.split()) for line in text.split("\n")))
        if self._prefix.startswith("#"):
            block = " ".join(lines).rstrip("¶ ")
        else:
            block = as_text("\n".join(lines))
        if block:
            self._sinks[-1].append(self._prefix + block)
            self._prefix = ""

    def _start_table(self) -> None:
        self._end_block()
        if len(self._tables) < DEEPEST:
            self._tables.append(_Table())
        else:
            self._deeper_tables += 1

    def _start_cell(self, tag: str, attributes: dict[str, str | None]) -> None:
        """A new row for `tr`."""
        self._end_block()
        if not self._tables or self._deeper_tables:
            return
        self._end_cell()
        table = self._tables[-1]
        if tag == "tr" or not table.rows:
            table.rows.append([])
        if tag != "tr":
            table.cell = _OpenCell(tag, attributes)
            self._sinks.append([])
            self._prefix = ""

    def _end_cell(self) -> None:
        self._end_block()
        if not self._tables or self._deeper_tables:
            return
        table = self._tables[-1]
        if (cell := table.cell) is None:
            return
        table.cell = None
        blocks = self._sinks.pop()
        text = " ".join(" ".join(blocks).split())
        is_header = cell.is_th or (cell.is_bold and bool(text))
        table.rows[-1].append(Cell(text, is_header, cell.colspan, cell.rowspan))
        table.parts.append(blocks)

    def _end_table(self) -> None:
        if self._deeper_tables:
            self._end_block()
            self._deeper_tables -= 1
        elif self._tables:
            self._end_cell()
            self._sinks[-1].extend(self._tables.pop().blocks())
            if self._tables:
                self._tables[-1].holds_tables = True


def join_blocks(blocks: list[str]) -> str:
    """Items of a list stand close together."""
    parts: list[str] = []
    was_item = False
    for block in blocks:
        is_item = bool(_ITEM.match(block))
        parts += ["\n" if was_item and is_item else "\n\n", block]
        was_item = is_item
    return "".join(parts[1:])


def _span(value: str | None) -> int:
    digits = (value or "").strip()
    return max(1, int(digits)) if digits.isascii() and digits.isdigit() and len(digits) < 6 else 1
