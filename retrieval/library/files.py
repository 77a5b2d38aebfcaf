"""Uploaded files, which wait in the library until a publisher reads them into documents."""

import sqlite3
from collections.abc import Sequence

import msgspec

from retrieval.library.library import Library
from retrieval.library.records import as_json


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file as it was uploaded; `name` becomes its document's id."""

    name: str
    content: bytes
    metadata: dict[str, object] = {}
    acl: tuple[str, ...] = ()


class Waiting(msgspec.Struct, frozen=True):
    """A file that waits to be read."""

    id: int
    job_id: str
    tenant: str
    file: File


def put_files(db: sqlite3.Connection, job_id: str, tenant: str, files: Sequence[File]) -> None:
    db.executemany(
        "INSERT INTO files (job_id, tenant, name, metadata, acl, content)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [
            (job_id, tenant, file.name, as_json(file.metadata), as_json(list(file.acl)),
             file.content)
            for file in files
        ],
    )  # fmt: skip


def has_files(library: Library) -> bool:
    with library.look() as db:
        return db.execute("SELECT 1 FROM files LIMIT 1").fetchone() is not None


def next_file(library: Library) -> Waiting | None:
    """The file that has waited longest; it stays here until `jobs.replace_file`."""
    with library.look() as db:
        row = db.execute(
            "SELECT id, job_id, tenant, name, content, metadata, acl FROM files ORDER BY id LIMIT 1"
        ).fetchone()
    if row is None:
        return None
    file = File(
        name=row[3],
        content=row[4],
        metadata=msgspec.json.decode(row[5]),
        acl=msgspec.json.decode(row[6], type=tuple[str, ...]),
    )
    return Waiting(row[0], row[1], row[2], file)


def waiting_bytes(db: sqlite3.Connection) -> int:
    """Of all files that wait."""
    size: int = db.execute("SELECT COALESCE(SUM(LENGTH(content)), 0) FROM files").fetchone()[0]
    return size
