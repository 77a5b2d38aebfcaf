"""Convert CSV and TSV to one list item for each row, with each value after its column's name."""

import codecs
import csv
import re
from collections.abc import Iterator
from io import StringIO
from itertools import islice
from statistics import median_low

from retrieval.reading.bounded import Unreadable, decode
from retrieval.reading.parsing.clean import plain
from retrieval.reading.parsing.tables import LONGEST_LABEL, WIDEST, record
from retrieval.reading.parsing.wire import Parsed, ParseLimits

LONGEST = 1024 * 1024
"""Of one line and of one field, in characters."""
DELIMITERS = ",;\t|"
SAMPLE = 20
"""Rows from which the delimiter is told."""

_NUMBER = re.compile(r"[-+]?[\d.,\s]*\d[\d.,\s]*[%€$£]?$")


def parse(content: bytes, limits: ParseLimits) -> Parsed:
    text = plain(_decode(content))
    rows = _rows(text, _delimiter(text))
    first = next(rows, None)
    if first is None:
        return Parsed("")
    labels = first if _names_columns(first) else []
    lines = [] if labels else [record([], first)]
    size = 0
    for values in rows:
        lines.append(record(labels, values))
        size += len(lines[-1]) + 1
        if size > limits.chars:
            raise Unreadable(f"more than {limits.chars:,} characters of text")
    return Parsed("\n".join(lines or [record([], labels)]))


def _decode(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError as exc:
            raise Unreadable(f"not UTF-16 at byte {exc.start}") from None
    return decode(content)


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    """Rows that hold anything, white space in fields collapsed. Raises Unreadable."""
    csv.field_size_limit(LONGEST)
    reader = csv.reader(_lines(text), delimiter=delimiter)
    try:
        for row in reader:
            if len(row) > WIDEST:
                raise Unreadable(f"line {reader.line_num}: more than {WIDEST:,} columns")
            values = [" ".join(field.split()) for field in row]
            if any(values):
                yield values
    except csv.Error as exc:
        raise Unreadable(f"line {reader.line_num}: {exc}") from None


def _lines(text: str) -> Iterator[str]:
    for number, line in enumerate(StringIO(text, newline=""), start=1):
        if len(line) > LONGEST:
            raise Unreadable(f"line {number}: longer than {LONGEST:,} characters")
        yield line


def _delimiter(text: str) -> str:
    """What cuts the first rows into the most columns."""

    def columns(delimiter: str) -> int:
        widths = [len(row) for row in islice(_rows(text, delimiter), SAMPLE)]
        return median_low(widths) if widths else 0

    return max(DELIMITERS, key=columns)


def _names_columns(row: list[str]) -> bool:
    """Names differ and are no numbers; the column of row numbers may go without."""
    names = [name for name in row if name]
    if any(len(name) > LONGEST_LABEL or _NUMBER.match(name) for name in names):
        return False
    return len(set(names)) == len(names)
