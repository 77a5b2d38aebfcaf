"""The library's file: its tables, its rows, and what SQLite's errors mean to us.

`library` and `jobs` say what is done with them; here is how it lies on disk. All functions work
inside the transaction of their caller.
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

Origin = Literal["paths", "api"]
Status = Literal["added", "updated", "unchanged"]


class DocumentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one document, less its text."""

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


def connect(index_dir: Path) -> sqlite3.Connection:
    """Open the file, made if there is none; a connection may be used by any one thread at a time.

    Raises IndexMismatch for a file of another version.
    """
    db = sqlite3.connect(
        index_dir / LIBRARY, timeout=BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        _prepare(db)
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def mapped(index_dir: Path) -> Iterator[None]:
    """SQLite's and the system's errors, in our words."""
    try:
        yield
    except sqlite3.OperationalError as exc:
        raise IndexUnwritable(f"cannot write to {index_dir / LIBRARY}: {exc}") from exc
    except sqlite3.DatabaseError as exc:
        raise IndexCorrupt(f"{index_dir / LIBRARY} is damaged: {exc}") from exc
    except OSError as exc:
        raise IndexUnwritable(f"cannot write to {index_dir}: {exc.strerror or exc}") from exc


def next_seq(db: sqlite3.Connection) -> int:
    seq: int = db.execute("SELECT seq + 1 FROM clock").fetchone()[0]
    return seq


def find(db: sqlite3.Connection, doc_id: str) -> DocumentRecord | None:
    row = db.execute(f"SELECT {FACTS} FROM documents WHERE doc_id = ?", (doc_id,)).fetchone()
    return None if row is None else kept_of(row)


def put(db: sqlite3.Connection, document: Document, origin: Origin, seq: int) -> Status:
    """Add or replace; a document that is there as it is keeps its number."""
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
    return hashlib.sha256(msgspec.msgpack.encode(document, order="deterministic")).digest()


def owner_of(view: View) -> str:
    """The tenant whose documents a caller writes."""
    return view.tenant or PUBLIC


def sees(view: View, kept: DocumentRecord) -> bool:
    return view.admits(kept.tenant, kept.acl, kept.metadata)


def may_change(view: View, kept: DocumentRecord) -> bool:
    return kept.tenant == owner_of(view) and sees(view, kept)


def _prepare(db: sqlite3.Connection) -> None:
    """Make the tables where there are none. Raises IndexMismatch for those of another version."""
    if _version(db) == 0:
        db.execute("BEGIN IMMEDIATE")
        if _version(db) == 0:  # else another process was faster
            for statement in _SCHEMA:
                db.execute(statement)
        db.execute("COMMIT")
    if (version := _version(db)) != VERSION:
        raise IndexMismatch(f"{LIBRARY} has version {version}, this program reads {VERSION}")


def _version(db: sqlite3.Connection) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    return version


def document_of(row: tuple[str, str, str, str, str, str]) -> Document:
    doc_id, title, text, metadata, tenant, acl = row
    return Document(
        doc_id=doc_id,
        title=title,
        text=text,
        metadata=msgspec.json.decode(metadata),
        tenant=tenant,
        acl=msgspec.json.decode(acl, type=tuple[str, ...]),
    )


def kept_of(row: tuple[object, ...]) -> DocumentRecord:
    facts = dict(zip(DocumentRecord.__struct_fields__, row, strict=True))
    facts["metadata"] = msgspec.json.decode(str(facts["metadata"]))
    facts["acl"] = msgspec.json.decode(str(facts["acl"]), type=tuple[str, ...])
    return msgspec.convert(facts, DocumentRecord)


def as_json(value: object) -> str:
    return msgspec.json.encode(value).decode()
