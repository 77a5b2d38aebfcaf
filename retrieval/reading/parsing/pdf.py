"""Convert PDF to Markdown: lines in larger type are headings, wrapped lines are joined again.

A page that cannot be read is a note, the others stand. Tables come as their lines: a PDF does not
say where cells are. Scanned pages hold no text.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import msgspec
from pypdf import PageObject, PdfReader
from pypdf.errors import DependencyError

from retrieval.reading.bounded import Unreadable
from retrieval.reading.markdown import as_text
from retrieval.reading.parsing.wire import Parsed, ParseLimits

HEADING_RATIO = 1.12
"""To the size most characters have: LaTeX sets its smallest numbered headings at 1.2."""
LONGEST_HEADING = 150
LONGEST_WORD = 100
MOST_NOTES = 20
FEWEST_PAGES = 4
"""That make the same line at their edge a running title."""
FULL_PAGE = 6
"""Lines; a page of fewer, like a slide, may say much the same as its neighbours."""

_LIGATURES = str.maketrans(
    {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st", "\xad": None}
)
_ITEM = re.compile(r"[•◦▪‣·–*-]\s|\(?\w{1,3}[.)]\s")
_DIGITS = re.compile(r"\d+")
_SENTENCE_END = re.compile(r"[.!?:]\W?$")
_COMPOUND = re.compile(r"\b\w+-\w+")
_WORD = re.compile(r"\w+")
_LAST_WORD = re.compile(r"\w+-$")
_NO_TITLE = re.compile(r"$|untitled|microsoft \w+ - |.*\.\w{2,4}$|.*[/\\]", re.IGNORECASE)


class Line(msgspec.Struct):
    text: str
    size: float
    """Height of most of its type, to half a point."""
    is_wide: bool
    """Reaches so far right that the next may go on with the same sentence."""


def parse(content: bytes, limits: ParseLimits) -> Parsed:
    reader = _open(content)
    if len(reader.pages) > limits.pages:
        raise Unreadable(f"more than {limits.pages:,} pages")
    pages: list[list[Line]] = []
    notes: list[str] = []
    for number, page in enumerate(reader.pages, start=1):
        try:
            pages.append(_lines(page))
        except MemoryError:
            raise
        except Exception as exc:  # pypdf raises anything at a damaged page; the others may be whole
            notes.append(f"page {number}: {type(exc).__name__}: {exc}")
    lines = _body(pages)
    if not lines:
        raise Unreadable(notes[0] if notes else "holds no text: scanned pages need OCR first")
    return Parsed(to_markdown(lines), _title(reader), _bounded(notes))


def to_markdown(lines: Sequence[Line]) -> str:
    levels = _levels(lines)
    compounds = {word for line in lines for word in _COMPOUND.findall(line.text)}
    parts: list[str] = []
    for block in _blocks(lines, levels):
        text = _joined(block, compounds)
        level = levels.get(block[0].size, 0)
        if level and len(text) <= LONGEST_HEADING:
            parts += ["\n\n", "#" * level, " ", text, "\n\n"]
        else:
            parts += ["\n", as_text(text), "\n" if len(block) > 1 else ""]
    return re.sub(r"\n{3,}", "\n\n", "".join(parts))


def _open(content: bytes) -> PdfReader:
    try:
        reader = PdfReader(BytesIO(content))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("encrypted: needs a password")
    except DependencyError as exc:
        raise Unreadable(f"encrypted: {exc}") from None
    return reader


def _lines(page: PageObject) -> list[Line]:
    """The page's lines that hold anything, top to bottom as the page draws them."""
    open_line: list[str] = []
    sizes: Counter[float] = Counter()
    found: list[Line] = []

    def end_line() -> None:
        text = " ".join("".join(open_line).translate(_LIGATURES).split())
        if text:
            found.append(Line(text, sizes.most_common(1)[0][0], False))
        open_line.clear()
        sizes.clear()

    def take(text: str, user: Any, matrix: Any, font: Any, size: float) -> None:
        size = size * math.sqrt(abs(_determinant(user) * _determinant(matrix)))
        for number, piece in enumerate(text.split("\n")):
            if number:
                end_line()
            open_line.append(piece)
            sizes[round(2 * size) / 2] += len(piece.strip())

    page.extract_text(visitor_text=take)
    end_line()
    widths = sorted(len(line.text) for line in found)
    wide = max(30, 0.75 * widths[len(widths) * 9 // 10]) if widths else 0
    for line in found:
        line.is_wide = len(line.text) >= wide
    return found


def _body(pages: Sequence[Sequence[Line]]) -> list[Line]:
    """All lines but those that stand at the edge of most pages, whatever number they carry."""
    seen = Counter(text for page in pages for text in set(_edge(page).values()))
    often = max(FEWEST_PAGES, len(pages) // 2)
    body: list[Line] = []
    for page in pages:
        edge = _edge(page)
        body += [line for n, line in enumerate(page) if n not in edge or seen[edge[n]] < often]
    return body


def _edge(page: Sequence[Line]) -> dict[int, tuple[str, float]]:
    """The first line and the last two of a full page: number → text with digits alike, size."""
    if len(page) < FULL_PAGE:
        return {}
    edge = (0, len(page) - 2, len(page) - 1)
    return {n: (_DIGITS.sub("0", page[n].text), page[n].size) for n in edge}


def _determinant(matrix: Sequence[float]) -> float:
    a, b, c, d = map(float, matrix[:4])
    return a * d - b * c


def _levels(lines: Sequence[Line]) -> dict[float, int]:
    """Type sizes of headings, the largest first → 1 to 6."""
    characters: Counter[float] = Counter()
    for line in lines:
        characters[line.size] += len(line.text)
    body = characters.most_common(1)[0][0]
    larger = sorted((size for size in characters if size >= HEADING_RATIO * body), reverse=True)
    return {size: min(rank, 6) for rank, size in enumerate(larger, start=1)}


def _blocks(lines: Sequence[Line], levels: dict[float, int]) -> Iterator[list[Line]]:
    """Headings and paragraphs, their lines together."""
    block: list[Line] = []
    for line in lines:
        if block and not _goes_on(block[-1], line, levels):
            yield block
            block = []
        block.append(line)
    yield block


def _goes_on(before: Line, line: Line, levels: dict[float, int]) -> bool:
    if before.size in levels or line.size in levels:
        return before.size == line.size
    if not before.is_wide or _ITEM.match(line.text):
        return False
    return line.is_wide or line.text[0].islower() or not _SENTENCE_END.search(before.text)


def _joined(lines: Sequence[Line], compounds: set[str]) -> str:
    """A word that a line's end hyphenates is whole again, unless the text has it with a hyphen."""
    parts = [lines[0].text]
    for line in lines[1:]:
        left, right = _LAST_WORD.search(parts[-1][-LONGEST_WORD:]), _WORD.match(line.text)
        if left and right and line.text[0].islower():
            is_compound = left[0] + right[0] in compounds
            parts[-1] = parts[-1] if is_compound else parts[-1][:-1]
        else:
            parts.append(" ")
        parts.append(line.text)
    return "".join(parts)


def _title(reader: PdfReader) -> str:
    """As the file names it, unless its program wrote a file's name there."""
    try:
        title = (reader.metadata and reader.metadata.title) or ""
    except Exception:  # see parse: the title is not worth the document
        title = ""
    return "" if _NO_TITLE.match(title.strip()) else title


def _bounded(notes: list[str]) -> list[str]:
    more = len(notes) - MOST_NOTES
    return notes if more <= 0 else [*notes[:MOST_NOTES], f"and {more:,} more pages"]
