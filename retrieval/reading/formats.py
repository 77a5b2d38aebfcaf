"""The file formats that can be read, by suffix.

Those of STRUCTURED become Markdown text: headings as `#` lines, rows of tables as list items. So
one splitter serves all of them.
"""

from pathlib import PurePosixPath

MARKDOWN = (".md", ".markdown")
TEXT = (*MARKDOWN, ".txt", ".rst")
PARSED = (".pdf", ".docx", ".html", ".htm", ".csv", ".tsv", ".ipynb")
CORPORA = (".json", ".json.gz", ".jsonl", ".jsonl.gz")
SUFFIXES = TEXT + PARSED + CORPORA
STRUCTURED = (*MARKDOWN, ".rst", *PARSED)


def why_unsupported(name: str) -> str:
    """Say of a file whose name has none of SUFFIXES that it cannot be read, and what can."""
    suffix = PurePosixPath(name).suffix
    kind = f"{suffix} files" if suffix else "files without a suffix"
    return f"{kind} cannot be read; supported: {', '.join(SUFFIXES)}"
