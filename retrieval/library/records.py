"""The library's SQLite file: its tables, its rows as structs, and its errors as ours.

`library` and `jobs` decide what is written; functions that take a connection work inside the
transaction of their caller.
"""

import hashlib
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from retrieval.index.filters import View
from retrieval.types import PUBLIC, Document, IndexCorrupt, IndexMismatch, IndexUnwritable

LIBRARY = "library.sqlite"
BUSY_S = 5.0
"""How long one process waits for the transaction of another."""
VERSION = 1
_SCHEMA = (
    """CREATE TABLE documents (
        doc_id TEXT PRIMARY KEY, tenant TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL,
        metadata TEXT NOT NULL, acl TEXT NOT NULL, digest BLOB NOT NULL, origin TEXT NOT NULL,
        chars INTEGER NOT NULL, updated_at REAL NOT NULL, seq INTEGER NOT NULL)""",
    "CREATE INDEX documents_by_origin ON documents (origin, doc_id)",
    """CREATE TABLE jobs (
        id TEXT PRIMARY KEY, seq INTEGER NOT NULL, is_open INTEGER NOT NULL,
        created_at REAL NOT NULL, record BLOB NOT NULL)""",
    "CREATE INDEX jobs_open ON jobs (is_open, seq)",
    """CREATE TABLE files (
        id INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT NOT NULL, tenant TEXT NOT NULL,
        name TEXT NOT NULL, metadata TEXT NOT NULL, acl TEXT NOT NULL, content BLOB NOT NULL)""",
    "CREATE INDEX files_of_job ON files (job_id)",
    "CREATE TABLE clock (seq INTEGER NOT NULL, built INTEGER NOT NULL)",
    "INSERT INTO clock VALUES (0, 0)",
    f"PRAGMA user_version = {VERSION}",
)
FACTS = "doc_id, tenant, title, metadata, acl, chars, origin, updated_at, seq"
"""The columns of a DocumentRecord, in its order."""

Origin = Literal["paths", "api"]
Status = Literal["added", "updated", "unchanged"]


class DocumentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One document of the library, without its text."""

    doc_id: str
    tenant: str
    title: str
    metadata: dict[str, object]
    acl: tuple[str, ...]
    chars: int
    origin: Origin
    updated_at: float
    """Unix seconds."""
    seq: int
    """Number of the change that wrote it last."""


def connect(index_dir: Path) -> sqlite3.Connection:
    """Open the file, made if there is none; a connection may be used by any one thread at a time.

    Raises IndexMismatch for a file of another version.
    """
    db = sqlite3.connect(
        index_dir / LIBRARY, timeout=BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        db.execute("PRAGMA journal_mode = WAL")  # readers do not wait for a writer
        db.execute("PRAGMA synchronous = FULL")  # a change is on disk when its call returns
        _prepare(db)
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def mapped(index_dir: Path) -> Iterator[None]:
    """Turn errors of SQLite and the disk into IndexUnwritable and IndexCorrupt."""
    try:
        yield
    except sqlite3.OperationalError as exc:
        raise IndexUnwritable(f"cannot write to {index_dir / LIBRARY}: {exc}") from exc
    except sqlite3.DatabaseError as exc:
        raise IndexCorrupt(f"{index_dir / LIBRARY} is damaged: {exc}") from exc
    except OSError as exc:
        raise IndexUnwritable(f"cannot write to {index_dir}: {exc.strerror or exc}") from exc


def next_seq(db: sqlite3.Connection) -> int:
    """Number of the next change; it counts once the caller writes it to the clock."""
    seq: int = db.execute("SELECT seq + 1 FROM clock").fetchone()[0]
    return seq


def find(db: sqlite3.Connection, doc_id: str) -> DocumentRecord | None:
    row = db.execute(f"SELECT {FACTS} FROM documents WHERE doc_id = ?", (doc_id,)).fetchone()
    return None if row is None else record_of(row)


def put(db: sqlite3.Connection, document: Document, origin: Origin, seq: int) -> Status:
    """Add or replace a document; one that is there unchanged keeps its change number."""
    digest = digest_of(document)
    before = db.execute(
        "SELECT digest, origin FROM documents WHERE doc_id = ?", (document.doc_id,)
    ).fetchone()
    if before == (digest, origin):
        return "unchanged"
    db.execute(
        "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (doc_id) DO UPDATE SET tenant = excluded.tenant, title = excluded.title,"
        " text = excluded.text, metadata = excluded.metadata, acl = excluded.acl,"
        " digest = excluded.digest, origin = excluded.origin, chars = excluded.chars,"
        " updated_at = excluded.updated_at, seq = excluded.seq",
        (
            document.doc_id,
            document.tenant,
            document.title,
            document.text,
            as_json(document.metadata),
            as_json(list(document.acl)),
            digest,
            origin,
            len(document.text),
            time.time(),
            seq,
        ),
    )
    return "updated" if before is not None else "added"


def digest_of(document: Document) -> bytes:
    """sha256 of all that the document holds, whatever the order of its metadata."""
    return hashlib.sha256(msgspec.msgpack.encode(document, order="deterministic")).digest()


def owner_of(view: View) -> str:
    """The tenant whose documents a caller writes."""
    return view.tenant or PUBLIC


def sees(view: View, kept: DocumentRecord) -> bool:
    return view.admits(kept.tenant, kept.acl, kept.metadata)


def may_change(view: View, kept: DocumentRecord | None) -> bool:
    """Whether the caller may write to an id: it is free (None), or its own tenant's and visible."""
    return kept is None or (kept.tenant == owner_of(view) and sees(view, kept))


def is_narrowed(kept: DocumentRecord | None, document: Document) -> bool:
    """Whether someone who may see what is kept may not see what replaces it."""
    if kept is None or not document.acl:
        return False
    return not kept.acl or not set(kept.acl) <= set(document.acl)


def _prepare(db: sqlite3.Connection) -> None:
    """Make the tables where there are none. Raises IndexMismatch for those of another version."""
    if _version(db) == 0:
        db.execute("BEGIN IMMEDIATE")
        if _version(db) == 0:  # else another process made them meanwhile
            for statement in _SCHEMA:
                db.execute(statement)
        db.execute("COMMIT")
    if (version := _version(db)) != VERSION:
        raise IndexMismatch(f"{LIBRARY} has version {version}, this program reads {VERSION}")


def _version(db: sqlite3.Connection) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    return version


def document_of(row: tuple[str, str, str, str, str, str]) -> Document:
    """From the columns doc_id, title, text, metadata, tenant, acl."""
    doc_id, title, text, metadata, tenant, acl = row
    return Document(
        doc_id=doc_id,
        title=title,
        text=text,
        metadata=msgspec.json.decode(metadata),
        tenant=tenant,
        acl=msgspec.json.decode(acl, type=tuple[str, ...]),
    )


def record_of(row: tuple[object, ...]) -> DocumentRecord:
    """From the columns FACTS."""
    facts = dict(zip(DocumentRecord.__struct_fields__, row, strict=True))
    facts["metadata"] = msgspec.json.decode(str(facts["metadata"]))
    facts["acl"] = msgspec.json.decode(str(facts["acl"]), type=tuple[str, ...])
    return msgspec.convert(facts, DocumentRecord)


def as_json(value: object) -> str:
    return msgspec.json.encode(value).decode()
