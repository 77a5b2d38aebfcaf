"""Files on disk → documents. What cannot be read is listed with its reason, never dropped silently.

Kinds: Markdown and text files; corpora as .json or .jsonl ({id,title,text,...}); SQuAD's JSON.
The JSON kinds may be gzipped.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from retrieval.corpora import corpus_lines, corpus_or_squad
from retrieval.markdown import first_heading
from retrieval.reading import Unreadable, read_text
from retrieval.types import Document

MARKDOWN = (".md", ".markdown")
TEXT = (*MARKDOWN, ".txt")
CORPORA = (".json", ".json.gz", ".jsonl", ".jsonl.gz")
SUFFIXES = TEXT + CORPORA


class Skipped(msgspec.Struct, frozen=True):
    path: str
    reason: str


def read_documents(paths: Iterable[str | Path]) -> Iterator[Document | Skipped]:
    """All documents under the paths; a file's doc_id is its path below the path that was named."""
    seen: set[str] = set()
    for root in map(Path, paths):
        for entry in _files(root):
            if isinstance(entry, Skipped):
                yield entry
                continue
            shown = _shown(entry)
            for found in _read(entry, root):
                if isinstance(found, str):
                    yield Skipped(shown, found)
                elif found.doc_id in seen:
                    yield Skipped(shown, f"doc_id {found.doc_id!r} was read before")
                else:
                    seen.add(found.doc_id)
                    yield found


def _read(path: Path, root: Path) -> Iterator[Document | str]:
    """Documents, or reasons why one is not."""
    name = path.name.lower()
    try:
        if name.endswith(TEXT):
            yield _text_document(path, root)
        elif name.endswith((".jsonl", ".jsonl.gz")):
            yield from corpus_lines(path)
        else:
            yield from corpus_or_squad(path)
    except Unreadable as exc:
        yield str(exc)


def _text_document(path: Path, root: Path) -> Document:
    name = path.name if path == root else path.relative_to(root).as_posix()
    try:
        name.encode()
    except UnicodeEncodeError:
        raise Unreadable("its name is not valid UTF-8") from None
    text = read_text(path)
    if not text.strip():
        raise Unreadable("empty")
    heading = first_heading(text) if path.suffix.lower() in MARKDOWN else None
    return Document(doc_id=name, title=heading or path.stem, text=text)


def _files(root: Path) -> Iterator[Path | Skipped]:
    try:
        mode = root.stat().st_mode
    except (OSError, ValueError) as exc:
        yield Skipped(_shown(root), _why(exc))
        return
    if stat.S_ISDIR(mode):
        yield from _walk(root, above=())
    elif root.name.lower().endswith(SUFFIXES):
        yield from _regular(root, mode)
    else:
        yield Skipped(_shown(root), f"not one of {', '.join(SUFFIXES)}")


def _walk(directory: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path | Skipped]:
    """Depth first in sorted order; `above` identifies the directories we are in."""
    try:
        place = directory.stat()
        names = sorted(os.listdir(directory))
    except OSError as exc:
        yield Skipped(_shown(directory), _why(exc))
        return
    here = (place.st_dev, place.st_ino)
    if here in above:
        yield Skipped(_shown(directory), "a symbolic link back to a directory above it")
        return
    for path in (directory / name for name in names if not name.startswith(".")):
        try:
            mode = path.stat().st_mode
        except OSError as exc:
            yield Skipped(_shown(path), _why(exc))
            continue
        if stat.S_ISDIR(mode):
            yield from _walk(path, (*above, here))
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


def _shown(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
