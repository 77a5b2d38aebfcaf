"""Jobs: the documents of one request, what became of each, and which generation holds them.

A job is open from the transaction that takes its documents until a generation holds them all. It
lies in the library, so it outlives every process.
"""

import secrets
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from retrieval.index.filters import View
from retrieval.index.tombstones import bury
from retrieval.library.files import File, Waiting, put_files, waiting_bytes
from retrieval.library.library import DocumentTaken, Library
from retrieval.library.records import find, is_narrowed, may_change, next_seq, owner_of, put
from retrieval.types import Document, QueueFull

KEEP_S = 24 * 3600.0
KEEP_MOST = 10_000
"""Of finished jobs."""
OPEN_MOST = 1_000
WAITING_BYTES = 1 << 30
"""Of all files that wait to be read."""

State = Literal["queued", "running", "done", "failed"]


class JobDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one document."""

    doc_id: str
    """A file's name, where nothing could be read of it."""
    status: Literal["added", "updated", "unchanged", "deleted", "failed"]
    reason: str | None = None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One request to add documents, as it is kept in the library."""

    id: str
    tenant: str
    key_id: str
    """Who handed it in."""
    state: State = "queued"
    stage: str = "wait"
    done: int = 0
    """Of `total`, in this stage."""
    total: int = 0
    documents: list[JobDocument] = []
    generation: str | None = None
    created_at: float
    finished_at: float | None = None
    """Unix seconds."""
    error: str | None = None
    """Why it is not done, or not yet."""
    seq: int = 0
    """The change number from which on a generation holds all of it."""


_decoder = msgspec.json.Decoder(Job)


def submit(
    library: Library,
    documents: Sequence[Document],
    files: Sequence[File],
    *,
    view: View,
    key_id: str = "",
    generation: str | None = None,
) -> Job:
    """Take documents and files for the view's tenant; all is on disk when this returns.

    `generation` is the one that serves, for a job with nothing to do. Raises DocumentTaken for an
    id that the view may not change, QueueFull where too much waits already; then nothing is taken.
    """
    job = Job(
        id=secrets.token_hex(12),
        tenant=owner_of(view),
        key_id=key_id,
        total=len(documents) + len(files),
        created_at=time.time(),
    )
    documents = [msgspec.structs.replace(one, tenant=job.tenant) for one in documents]
    with library.change() as db:
        _require_room(db)
        _forget_old(db)
        for doc_id in [document.doc_id for document in documents] + [file.name for file in files]:
            if not may_change(view, find(db, doc_id)):
                raise DocumentTaken("an id of these documents is taken")
        job = _put_all(library, db, job, documents)
        put_files(db, job.id, job.tenant, files)
        built = db.execute("SELECT built FROM clock").fetchone()[0]
        if not files and job.seq <= built:
            job = _finished(job, generation)
        db.execute(
            "INSERT INTO jobs VALUES (?, ?, ?, ?, ?)",
            (job.id, job.seq, job.finished_at is None, job.created_at, msgspec.json.encode(job)),
        )
    return job


def find_job(library: Library, id: str) -> Job | None:
    with library.look() as db:
        row = db.execute("SELECT record FROM jobs WHERE id = ?", (id,)).fetchone()
    return None if row is None else _decoder.decode(row[0])


def open_jobs(library: Library) -> list[Job]:
    with library.look() as db:
        rows = db.execute("SELECT record FROM jobs WHERE is_open ORDER BY created_at").fetchall()
    return [_decoder.decode(record) for (record,) in rows]


def replace_file(
    library: Library, waiting: Waiting, documents: Sequence[Document], reasons: Iterable[str]
) -> None:
    """Put the documents of a file in its place; none where it was deleted meanwhile.

    `reasons` say what of the file could not be read.
    """
    with library.change() as db:
        is_there = db.execute("DELETE FROM files WHERE id = ?", (waiting.id,)).rowcount
        job = _open_job(db, waiting.job_id)
        if job is None:  # its file was deleted, and the job ended without it
            return
        if not is_there:
            documents, reasons = [], ["deleted before it was read"]
        failed = [
            JobDocument(doc_id=waiting.file.name, status="failed", reason=reason)
            for reason in reasons
        ]
        view = View(tenant=waiting.tenant)
        own = [one for one in documents if may_change(view, find(db, one.doc_id))]
        failed += [
            JobDocument(doc_id=one.doc_id, status="failed", reason="the id is taken")
            for one in documents
            if one not in own
        ]
        job = _put_all(library, db, job, own)
        _store(db, msgspec.structs.replace(job, documents=job.documents + failed, stage="read"))


def begin(library: Library, seq: int) -> None:
    """Note in the jobs up to a change number that they are being built."""
    with library.change() as db:
        for job in _jobs_upto(db, seq):
            _store(db, msgspec.structs.replace(job, state="running", stage="build"))


def finish(library: Library, generation: str | None) -> list[Job]:
    """End the jobs that have been built in whole, by the generation that holds them."""
    with library.change() as db:
        built = db.execute("SELECT built FROM clock").fetchone()[0]
        ended = [_finished(job, generation) for job in _jobs_upto(db, built)]
        for job in ended:
            _store(db, job)
    return ended


def note_trouble(library: Library, reason: str) -> None:
    """Note in every open job why it has to wait; its build is tried again."""
    with library.change() as db:
        for (record,) in db.execute("SELECT record FROM jobs WHERE is_open").fetchall():
            job = msgspec.structs.replace(_decoder.decode(record), error=reason, stage="wait")
            _store(db, job)


def _put_all(
    library: Library, db: sqlite3.Connection, job: Job, documents: Sequence[Document]
) -> Job:
    """Write the documents to the library; returns the job with what became of each."""
    outcomes, seq = [], next_seq(db)
    narrowed = [one.doc_id for one in documents if is_narrowed(find(db, one.doc_id), one)]
    # Who may not see it any more would, in the generation that serves, until the next is built.
    if narrowed:
        bury(library.index_dir, narrowed, seq)
    for document in documents:
        status = put(db, document, "api", seq)
        outcomes.append(JobDocument(doc_id=document.doc_id, status=status))
    if any(outcome.status != "unchanged" for outcome in outcomes):
        db.execute("UPDATE clock SET seq = ?", (seq,))
    # An unchanged document may have come with a change that is not built yet: wait for that one.
    kept = [find(db, outcome.doc_id) for outcome in outcomes]
    needed = max((one.seq for one in kept if one is not None), default=0)
    return msgspec.structs.replace(
        job,
        documents=job.documents + outcomes,
        done=min(job.total, job.done + len(outcomes)),
        seq=max(job.seq, needed),
    )


def _require_room(db: sqlite3.Connection) -> None:
    n_open = db.execute("SELECT COUNT(*) FROM jobs WHERE is_open").fetchone()[0]
    if n_open >= OPEN_MOST or waiting_bytes(db) >= WAITING_BYTES:
        raise QueueFull("too much waits to be indexed; try again later")


def _forget_old(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM jobs WHERE NOT is_open AND created_at < ?", (time.time() - KEEP_S,))
    db.execute(
        "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE NOT is_open"
        " ORDER BY created_at DESC LIMIT -1 OFFSET ?)",
        (KEEP_MOST,),
    )


def _open_job(db: sqlite3.Connection, id: str) -> Job | None:
    row = db.execute("SELECT record FROM jobs WHERE id = ? AND is_open", (id,)).fetchone()
    return None if row is None else _decoder.decode(row[0])


def _jobs_upto(db: sqlite3.Connection, seq: int) -> list[Job]:
    """Open jobs that wait for no file."""
    rows = db.execute(
        "SELECT record FROM jobs WHERE is_open AND seq <= ?"
        " AND id NOT IN (SELECT job_id FROM files)",
        (seq,),
    )
    return [_decoder.decode(record) for (record,) in rows.fetchall()]


def _finished(job: Job, generation: str | None) -> Job:
    all_failed = bool(job.documents) and all(one.status == "failed" for one in job.documents)
    return msgspec.structs.replace(
        job,
        state="failed" if all_failed else "done",
        stage="end",
        done=job.total,
        error="nothing could be read" if all_failed else None,
        generation=generation,
        finished_at=time.time(),
    )


def _store(db: sqlite3.Connection, job: Job) -> None:
    db.execute(
        "UPDATE jobs SET seq = ?, is_open = ?, record = ? WHERE id = ?",
        (job.seq, job.finished_at is None, msgspec.json.encode(job), job.id),
    )
