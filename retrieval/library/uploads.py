"""Read uploaded files into documents, with the same readers as files on disk.

A file is read under a fixed name in a folder of its own, so that no name that a client chose
reaches the disk; the client's name becomes the document's id.
"""

import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path, PurePosixPath

import msgspec

from retrieval.language.characters import UNPRINTABLE
from retrieval.library.files import Waiting, next_file
from retrieval.library.jobs import find_job, replace_file
from retrieval.library.library import Library
from retrieval.reading.documents import MOST_REASONS, Skipped, read_documents
from retrieval.reading.formats import CORPORA, SUFFIXES, why_unsupported
from retrieval.types import Document

MOST_DOCUMENTS = 10_000
"""Of all files of one job."""
MOST_CHARS = 64 * 1024 * 1024
"""Of the documents of one file: a packed one may hold a hundred times its size."""
LONGEST_ID = 512

_STEM = "upload"


def suffix_of(name: str) -> str:
    """The suffix by which a file is read. Raises ValueError, saying which can be, for another."""
    found = [suffix for suffix in SUFFIXES if name.lower().endswith(suffix)]
    if not found:
        raise ValueError(why_unsupported(name))
    return max(found, key=len)


def read_waiting(library: Library, on_file: Callable[[], object]) -> None:
    """Read every file that waits; `on_file` is called before each and may raise to stop."""
    while (waiting := next_file(library)) is not None:
        on_file()
        job = find_job(library, waiting.job_id)
        documents, reasons = _read(waiting, MOST_DOCUMENTS - len(job.documents if job else ()))
        replace_file(library, waiting, documents, reasons)


def _read(waiting: Waiting, room: int) -> tuple[list[Document], list[str]]:
    """What the file holds and what of it cannot be read; nothing of one that holds too much."""
    try:
        suffix = suffix_of(waiting.file.name)
    except ValueError as exc:
        return [], [str(exc)]
    documents: list[Document] = []
    reasons: list[str] = []
    chars = 0
    with tempfile.TemporaryDirectory(prefix="ragrelay-") as folder:
        path = Path(folder) / f"{_STEM}{suffix}"
        path.write_bytes(waiting.file.content)
        with closing(read_documents([path])) as found:  # type: ignore[type-var]
            for entry in found:
                if isinstance(entry, Skipped):
                    reasons.append(entry.reason)
                elif not _is_id(entry.doc_id):
                    reasons.append(f"an id has more than {LONGEST_ID} characters or control ones")
                else:
                    documents.append(_named(entry, waiting, suffix))
                    chars += len(entry.text)
                if len(documents) > room:
                    return [], [f"with it the job has more than {MOST_DOCUMENTS:,} documents"]
                if chars > MOST_CHARS:
                    return [], [f"its documents have more than {MOST_CHARS:,} characters"]
    return documents, reasons[:MOST_REASONS]


def _is_id(doc_id: str) -> bool:
    return len(doc_id) <= LONGEST_ID and bool(doc_id.strip()) and not UNPRINTABLE.search(doc_id)


def _named(document: Document, waiting: Waiting, suffix: str) -> Document:
    file = waiting.file
    document = msgspec.structs.replace(
        document,
        metadata={**document.metadata, **file.metadata},
        tenant=waiting.tenant,
        acl=file.acl,
    )
    if suffix in CORPORA:  # its documents have ids and titles of their own
        return document
    stem = PurePosixPath(file.name).name[: -len(suffix)]
    title = stem if document.title == _STEM else document.title
    return msgspec.structs.replace(document, doc_id=file.name, title=title)
