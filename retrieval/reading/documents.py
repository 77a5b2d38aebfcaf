"""Read the documents in files and folders, and list what cannot be read, each with its reason.

Text files and JSON corpora are read in this process, formats that need a parser in processes of
their own (`parsing`). `formats` says which is which.
"""

import os
import stat
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path

import msgspec

from retrieval.reading.bounded import Unreadable, read_text
from retrieval.reading.corpora import corpus_lines, corpus_or_squad
from retrieval.reading.formats import PARSED, STRUCTURED, SUFFIXES, TEXT, why_unsupported
from retrieval.reading.markdown import first_heading
from retrieval.reading.parsing.clean import one_line
from retrieval.reading.parsing.pool import ParserPool
from retrieval.reading.parsing.restructured import to_markdown
from retrieval.reading.parsing.wire import Parsed, ParseLimits
from retrieval.types import Document

AHEAD = 4
"""Files begun before the first of them is taken."""
MOST_REASONS = 100
"""Listed of one file; the others are counted."""
DEEPEST = 100
"""Directories within directories."""


class Skipped(msgspec.Struct, frozen=True):
    """A file, or a part of one, that was not read."""

    path: str
    reason: str


class _File(msgspec.Struct, frozen=True):
    path: Path
    name: str
    """Below the path that was named; a document's id."""
    parsed: Future[Parsed] | None


def read_documents(
    paths: Iterable[str | Path], *, limits: ParseLimits | None = None
) -> Iterator[Document | Skipped]:
    """All documents under the paths; a file's doc_id is its path below the path that was named."""
    seen: set[str] = set()
    with ParserPool(limits) as pool:
        for entry in _begun(paths, pool):
            if isinstance(entry, Skipped):
                yield entry
                continue
            for found in _bounded(_documents(entry), seen):
                yield found if isinstance(found, Document) else Skipped(_shown(entry.path), found)


def _begun(paths: Iterable[str | Path], pool: ParserPool) -> Iterator[_File | Skipped]:
    """All files in order; those that a parser reads are begun some files ahead."""
    waiting: deque[_File | Skipped] = deque()
    for root in map(Path, paths):
        for entry in _files(root):
            waiting.append(entry if isinstance(entry, Skipped) else _file(entry, root, pool))
            if len(waiting) > AHEAD:
                yield waiting.popleft()
    yield from waiting


def _file(path: Path, root: Path, pool: ParserPool) -> _File | Skipped:
    name = path.name if path == root else path.relative_to(root).as_posix()
    is_corpus = not name.lower().endswith(TEXT + PARSED)
    if not is_corpus and not _is_utf8(name):
        return Skipped(_shown(path), "its name is not valid UTF-8")
    return _File(path, name, pool.parse(path) if name.lower().endswith(PARSED) else None)


def _bounded(found: Iterator[Document | str], seen: set[str]) -> Iterator[Document | str]:
    """Documents whose id is new; the first reasons one by one, the rest as their number."""
    reasons = 0
    for entry in found:
        if isinstance(entry, Document):
            if entry.doc_id not in seen:
                seen.add(entry.doc_id)
                yield entry
                continue
            entry = f"doc_id {one_line(entry.doc_id)!r} was read before"
        reasons += 1
        if reasons <= MOST_REASONS:
            yield entry
    if reasons > MOST_REASONS:
        yield f"and {reasons - MOST_REASONS:,} more like these"


def _documents(file: _File) -> Iterator[Document | str]:
    """Documents, or reasons why one, or a part of one, is not."""
    name = file.path.name.lower()
    try:
        if file.parsed is not None:
            parsed = file.parsed.result()
            yield _document(file, parsed.text, parsed.title)
            yield from parsed.notes
        elif name.endswith(TEXT):
            text = read_text(file.path)
            yield _document(file, to_markdown(text) if name.endswith(".rst") else text, "")
        elif name.endswith((".jsonl", ".jsonl.gz")):
            yield from corpus_lines(file.path)
        else:
            yield from corpus_or_squad(file.path)
    except Unreadable as exc:
        yield str(exc)


def _document(file: _File, text: str, title: str) -> Document:
    """A document without a title has its first heading's, else its file's name."""
    if not text.strip():
        raise Unreadable("empty")
    if not title and file.name.lower().endswith(STRUCTURED):
        title = first_heading(text) or ""
    return Document(doc_id=file.name, title=title or file.path.stem, text=text)


def _files(root: Path) -> Iterator[Path | Skipped]:
    try:
        mode = root.stat().st_mode
    except (OSError, ValueError) as exc:
        yield Skipped(_shown(root), _why(exc))
        return
    if stat.S_ISDIR(mode):
        yield from _walk(root, set(), depth=1)
    elif root.name.lower().endswith(SUFFIXES):
        yield from _regular(root, mode)
    else:
        yield Skipped(_shown(root), why_unsupported(_shown(root)))


def _walk(directory: Path, walked: set[tuple[int, int]], *, depth: int) -> Iterator[Path | Skipped]:
    """Depth first in sorted order, each directory once, by whatever links it is reached."""
    try:
        place = directory.stat()
        names = sorted(os.listdir(directory))
    except OSError as exc:
        yield Skipped(_shown(directory), _why(exc))
        return
    here = (place.st_dev, place.st_ino)
    if here in walked or depth > DEEPEST:
        reason = f"more than {DEEPEST} directories deep" if depth > DEEPEST else "read before"
        yield Skipped(_shown(directory), reason)
        return
    walked.add(here)
    for path in (directory / name for name in names if not name.startswith(".")):
        try:
            mode = path.stat().st_mode
        except OSError as exc:
            yield Skipped(_shown(path), _why(exc))
            continue
        if stat.S_ISDIR(mode):
            yield from _walk(path, walked, depth=depth + 1)
        elif path.name.lower().endswith(SUFFIXES):
            yield from _regular(path, mode)


def _regular(path: Path, mode: int) -> Iterator[Path | Skipped]:
    # Opening a pipe would wait for its writer, a device may never end.
    if stat.S_ISREG(mode):
        yield path
    else:
        yield Skipped(_shown(path), "not a regular file")


def _why(exc: OSError | ValueError) -> str:
    return (exc.strerror if isinstance(exc, OSError) else None) or str(exc)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(path: Path) -> str:
    """On one line, whatever the name holds."""
    name = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)
