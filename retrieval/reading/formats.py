"""Which file names are read, and as what: the one table of suffixes.

Whatever is read as STRUCTURED becomes Markdown text: headings as `#` lines, rows of tables as list
items. So one splitter and one outline serve all of them.
"""

MARKDOWN = (".md", ".markdown")
TEXT = (*MARKDOWN, ".txt", ".rst")
PARSED = (".pdf", ".docx", ".html", ".htm", ".csv", ".tsv", ".ipynb")
CORPORA = (".json", ".json.gz", ".jsonl", ".jsonl.gz")
SUFFIXES = TEXT + PARSED + CORPORA
STRUCTURED = (*MARKDOWN, ".rst", *PARSED)
