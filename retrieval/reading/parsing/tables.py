"""Write rows of tables as list items that can be read alone: `- City: Berlin; Population: 3.7 m`.

The splitter never cuts a list item that fits into a passage.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile, zip_longest

import msgspec

from retrieval.reading.markdown import as_text

LONGEST_LABEL = 100
WIDEST = 1_000
"""Columns, and the most that one cell may span (as HTML has it for columns)."""


class Cell(msgspec.Struct, frozen=True):
    text: str
    is_header: bool = False
    colspan: int = 1
    rowspan: int = 1


def record(labels: Sequence[str], values: Sequence[str]) -> str:
    """One row; values without a label stand alone, labels without a value are left out."""
    pairs = zip_longest(labels, values, fillvalue="")
    named = [(label.rstrip(" :")[:LONGEST_LABEL], value) for label, value in pairs if value]
    return _item("; ".join(f"{label}: {value}" if label else value for label, value in named))


def table_records(rows: Sequence[Sequence[Cell]]) -> list[str]:
    """Headers in the first rows label the others; without them, a row may begin with its label."""
    grid = [row for row in laid_out(rows) if any(cell.text for cell in row)]
    heads = list(takewhile(_is_header, grid))
    if len(heads) == len(grid):
        heads = []
    labels = [" ".join(_unique(column)) for column in zip_longest(*heads, fillvalue=Cell(""))]
    return [_line(labels, row) for row in grid[len(heads) :]]


def _line(labels: list[str], row: list[Cell]) -> str:
    values = [cell.text for cell in row]
    if _is_header(row):
        return _item(" | ".join(_unique(row)))
    if labels:
        return record(labels, values)
    rest = " | ".join(filter(None, values[1:]))
    if row[0].is_header and rest:
        return record(values[:1], [rest])
    return _item(" | ".join(filter(None, values)))


def _item(row: str) -> str:
    # "- # 1" would be a heading inside an item, where the splitter likes to cut.
    return f"- {as_text(row)}"


def _is_header(row: Sequence[Cell]) -> bool:
    return all(cell.is_header for cell in row if cell.text)


def _unique(cells: Sequence[Cell]) -> Iterator[str]:
    return iter(dict.fromkeys(cell.text for cell in cells if cell.text))


def laid_out(rows: Sequence[Sequence[Cell]]) -> Iterator[list[Cell]]:
    """Spans laid out: a header heads each column it spans, a cell stands in each row it spans."""
    below: dict[int, Cell] = {}
    for cells in rows:
        row: list[Cell] = []
        waiting = iter(cells)
        cell = next(waiting, None)
        while (cell is not None or len(row) in below) and len(row) < WIDEST:
            column = len(row)
            if (above := below.pop(column, None)) is not None:
                row.append(above)
                if above.rowspan > 2:
                    below[column] = msgspec.structs.replace(above, rowspan=above.rowspan - 1)
                continue
            assert cell is not None
            width = min(cell.colspan, WIDEST - column)
            rest = cell if cell.is_header else msgspec.structs.replace(cell, text="")
            row += [cell, *[rest] * (width - 1)]
            if cell.rowspan > 1:
                below |= {column + n: row[column + n] for n in range(width)}
            cell = next(waiting, None)
        yield row
