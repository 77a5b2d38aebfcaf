"""The documents of record: every document with its text, in SQLite beside the index.

DIR/library.sqlite decides what there is; `publishing` builds generations from it. A change is on
disk when its call returns, and has the next change number, `seq`; a generation holds everything up
to the number in its manifest. Any number of processes may write. A view sees the same documents
here as in search. `jobs` and `files` keep their rows in the same file.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from retrieval.index.filters import View
from retrieval.index.tombstones import bury
from retrieval.library.records import (
    FACTS,
    DocumentRecord,
    as_json,
    connect,
    document_of,
    find,
    mapped,
    may_change,
    next_seq,
    owner_of,
    put,
    record_of,
    sees,
)
from retrieval.types import Document, RetrievalError


class DocumentTaken(RetrievalError):
    """The id is another tenant's; the message does not say whose."""


class Library:
    """The library of one index directory, from any thread; close it at the end.

    Every call raises IndexUnwritable where the disk or another process's lock keeps it from
    working, IndexCorrupt for a damaged file.
    """

    def __init__(self, index_dir: str | Path) -> None:
        self.index_dir = Path(index_dir)
        self._lock = threading.RLock()
        with mapped(self.index_dir):
            self.index_dir.mkdir(parents=True, exist_ok=True)
            self._db = connect(self.index_dir)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One transaction, on disk when the block ends, undone when it raises."""
        with self._lock, mapped(self.index_dir):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite itself ends one where the disk is full
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def look(self) -> Iterator[sqlite3.Connection]:
        """Read outside a transaction: each statement sees the last commit."""
        with self._lock, mapped(self.index_dir):
            yield self._db

    def clock(self) -> tuple[int, int]:
        """(number of the last change, number up to which all has been built)."""
        with self.look() as db:
            seq, built = db.execute("SELECT seq, built FROM clock").fetchone()
        return seq, built

    def note_built(self, seq: int) -> None:
        with self.change() as db:
            db.execute("UPDATE clock SET built = MAX(built, ?)", (seq,))

    def snapshot(self) -> tuple[int, list[Document]]:
        """(change number, every document as of it), in the order in which they came."""
        with mapped(self.index_dir), closing(connect(self.index_dir)) as db:
            # One state of the file, on a connection of its own: who writes meanwhile need not wait.
            db.execute("BEGIN")
            seq = db.execute("SELECT seq FROM clock").fetchone()[0]
            rows = db.execute(
                "SELECT doc_id, title, text, metadata, tenant, acl FROM documents ORDER BY rowid"
            )
            return seq, [document_of(row) for row in rows]

    def replace_paths(self, documents: Iterable[Document]) -> list[str]:
        """Put `documents` in place of all that came from paths; those of the API stay.

        Returns the ids that were left out, for the API has documents of that name.
        """
        seen: set[str] = set()
        taken: list[str] = []
        with self.change() as db:
            seq = next_seq(db)
            for document in documents:
                seen.add(document.doc_id)
                kept = find(db, document.doc_id)
                if kept is not None and kept.origin != "paths":
                    taken.append(document.doc_id)
                else:
                    put(db, document, "paths", seq)
            before = db.execute("SELECT doc_id FROM documents WHERE origin = 'paths'").fetchall()
            gone = [(doc_id,) for (doc_id,) in before if doc_id not in seen]
            db.executemany("DELETE FROM documents WHERE doc_id = ?", gone)
            changed = db.execute("SELECT 1 FROM documents WHERE seq = ? LIMIT 1", (seq,)).fetchone()
            if gone or changed:
                db.execute("UPDATE clock SET seq = ?", (seq,))
        return taken

    def delete(self, doc_id: str, view: View) -> bool:
        """Delete and bury one document of the view's own tenant; False where there is none.

        It is hidden in every generation, in every process, once this returns. Raises
        DocumentTaken for one that the view may see but that is another tenant's.
        """
        with self.change() as db:
            kept = find(db, doc_id)
            waiting = db.execute(
                "SELECT 1 FROM files WHERE name = ? AND tenant = ?", (doc_id, owner_of(view))
            ).fetchone()
            if kept is not None and not sees(view, kept):
                kept = None
            if kept is None and waiting is None:
                return False
            if not may_change(view, kept):
                raise DocumentTaken("the document belongs to all tenants")
            seq = next_seq(db)
            db.execute("UPDATE clock SET seq = ?", (seq,))
            db.execute("DELETE FROM documents WHERE doc_id = ?", (doc_id,))
            db.execute("DELETE FROM files WHERE name = ? AND tenant = ?", (doc_id, owner_of(view)))
            # Before the commit: a document that is buried but was not deleted comes back with
            # the next generation, one that was deleted but not buried would go on serving.
            with mapped(self.index_dir):
                bury(self.index_dir, [doc_id], seq)
        return True

    def document(self, doc_id: str, view: View) -> tuple[DocumentRecord, str] | None:
        """One document with its text; None where the view shows none."""
        with self.look() as db:
            row = db.execute(
                f"SELECT {FACTS}, text FROM documents WHERE doc_id = ?", (doc_id,)
            ).fetchone()
        if row is None:
            return None
        kept = record_of(row[:-1])
        return (kept, row[-1]) if sees(view, kept) else None

    def documents(
        self, view: View, *, limit: int, after: str = "", q: str = ""
    ) -> list[DocumentRecord]:
        """Up to `limit` documents that the view shows, by id, behind `after`.

        `q` is looked for in id and title, without regard to the case of ASCII letters.
        """
        like = "%" + q.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        query = f"""SELECT {FACTS} FROM documents
            WHERE doc_id > :after AND (:tenant IS NULL OR tenant IN (:tenant, 'public'))
            AND (:all_groups OR acl = '[]' OR EXISTS (
                SELECT 1 FROM json_each(acl) JOIN json_each(:groups) USING (value)))
            AND (:q = '' OR doc_id LIKE :like ESCAPE '\\' OR title LIKE :like ESCAPE '\\')
            ORDER BY doc_id LIMIT :limit"""
        values = {
            "after": after,
            "tenant": view.tenant,
            "all_groups": view.all_groups,
            "groups": as_json(list(view.groups)),
            "q": q,
            "like": like,
            "limit": limit,
        }
        with self.look() as db:
            return [record_of(row) for row in db.execute(query, values)]
