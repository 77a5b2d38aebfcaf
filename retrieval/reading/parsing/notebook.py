"""Convert Jupyter notebooks to Markdown: text cells as they are, code and its output in fences."""

import re

import msgspec

from retrieval.reading.bounded import Unreadable
from retrieval.reading.markdown import as_code
from retrieval.reading.parsing.wire import Parsed, ParseLimits

LONGEST_OUTPUT = 2_000
"""Characters of one output; the rest of it seldom says more."""

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LANGUAGE = re.compile(r"\w{1,20}")

Text = str | list[str]


class Output(msgspec.Struct):
    text: Text = ""
    data: dict[str, msgspec.Raw] = {}


class Cell(msgspec.Struct):
    cell_type: str
    source: Text = ""
    outputs: list[Output] = []


class Language(msgspec.Struct):
    name: str = ""


class Metadata(msgspec.Struct):
    title: str = ""
    language_info: Language = msgspec.field(default_factory=Language)


class Notebook(msgspec.Struct):
    """https://nbformat.readthedocs.io/en/latest/format_description.html, format 4."""

    cells: list[Cell]
    metadata: Metadata = msgspec.field(default_factory=Metadata)


def parse(content: bytes, limits: ParseLimits) -> Parsed:
    try:
        notebook = msgspec.json.decode(content, type=Notebook)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Unreadable(f"not a notebook of format 4: {exc}") from None
    language = _LANGUAGE.match(notebook.metadata.language_info.name)
    parts: list[str] = []
    for cell in notebook.cells:
        source = _joined(cell.source).strip("\n")
        if not source.strip():
            continue
        is_code = cell.cell_type == "code"
        parts.append(as_code(source, language[0] if language else "") if is_code else source)
        parts += [as_code(shown) for output in cell.outputs if (shown := _shown(output))]
    return Parsed("\n\n".join(parts), notebook.metadata.title)


def _shown(output: Output) -> str:
    plain = output.data.get("text/plain")
    printed = msgspec.json.decode(plain, type=Text) if plain else output.text
    return _ANSI.sub("", _joined(printed)).strip("\n")[:LONGEST_OUTPUT]


def _joined(text: Text) -> str:
    return text if isinstance(text, str) else "".join(text)
