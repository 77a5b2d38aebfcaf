"""Find what changed since the generation before, and split and embed only that.

It goes to disk as it is made, beside a plan of which row comes from where (`assembly` carries it
out), so that no more than BLOCK texts and vectors are in memory.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np

from retrieval.build.assembly import COUNTS, FRESH, QUERIES, ROWS, VECTORS, Plan
from retrieval.build.splitting import Splitter
from retrieval.index.dense import needs_training
from retrieval.index.fields import DIGEST_BYTES
from retrieval.index.index import Index
from retrieval.index.passages import HASHES, Passages, write_passages
from retrieval.index.sparse import SparseInfo
from retrieval.types import Document, Passage, Progress, Rows, TextEmbedder

PROGRESS_EVERY = 64
BLOCK = 4_096
"""Passages embedded at a time."""
SAMPLE = 256
SAMPLE_WORDS = 12
SAMPLE_CHARS = 500

_encoder = msgspec.msgpack.Encoder()


def document_digest(document: Document) -> bytes:
    """DIGEST_BYTES of all that the document holds, the order of its metadata included."""
    return hashlib.sha256(_encoder.encode(document)).digest()[:DIGEST_BYTES]


class Reusable(msgspec.Struct, frozen=True):
    """An older index of the same embedding model."""

    older: Index
    splits_alike: bool
    """Its splitter's parameters are today's: unchanged documents keep their passages."""
    counts_alike: bool
    """Its language is today's: unchanged passages keep their terms."""


class Changes:
    """Which documents the older index has as they are, and which are fresh: new or changed.

    A "place" counts through the older index's passages first, then through the fresh ones.
    """

    def __init__(
        self, documents: Sequence[Document], digests: bytes, reusable: Reusable | None
    ) -> None:
        self._documents = documents
        self._digests = _each(digests)
        self._reusable = reusable
        self._old = reusable.older if reusable else None
        self._n_old = len(self._old) if self._old else 0
        known = _numbers(reusable.older) if reusable and reusable.splits_alike else {}
        # (documents,): the document's number in the older index, -1 for a fresh one.
        self._old_numbers = np.array(
            [known.get(digest, -1) for digest in self._digests], dtype=np.int64
        )

    def write(
        self,
        directory: Path,
        splitter: Splitter,
        embedder: TextEmbedder,
        sparse: SparseInfo,
        report: Progress,
    ) -> tuple[int, int]:
        """Lay out `directory` for `assemble`; returns (passages, vectors taken from the older)."""
        fresh_dir = directory / FRESH
        fresh_dir.mkdir()
        counts = self._old_counts()
        write_passages(self._split(splitter, counts, report), fresh_dir)
        rows = self._rows(counts)
        np.save(fresh_dir / ROWS, rows)
        # A document of white space alone has no passage, so the index does not know it.
        np.save(fresh_dir / COUNTS, counts[counts > 0])
        made = self._embed(fresh_dir, embedder, report)
        plan = self._plan(sparse, embedder.dim, counts)
        plan.write(directory)
        if needs_training(len(rows), int((rows >= self._n_old).sum()), plan.old_dense):
            np.save(directory / QUERIES, embedder.encode_queries(self._sample(rows, fresh_dir)))
        return len(rows), len(rows) - made

    def _plan(self, sparse: SparseInfo, dim: int, counts: Rows) -> Plan:
        held = (self._digests[number] for number in np.flatnonzero(counts).tolist())
        return Plan(
            old=str(self._old.directory) if self._old else None,
            old_dense=self._old.manifest.dense if self._old else None,
            keeps_terms=self._reusable is not None and self._reusable.counts_alike,
            sparse=sparse,
            dim=dim,
            digests=b"".join(held),
        )

    def _old_counts(self) -> Rows:
        """(documents,): number of passages of those in the old index, 0 for the fresh."""
        if self._old is None:
            return np.zeros(len(self._documents), dtype=np.int64)
        counts = np.diff(self._old.documents.first_rows)[self._old_numbers]
        return np.where(self._old_numbers < 0, 0, counts)

    def _split(self, splitter: Splitter, counts: Rows, report: Progress) -> Iterator[Passage]:
        """Passages of the fresh documents; sets the number of each in `counts` (documents,)."""
        fresh = np.flatnonzero(self._old_numbers < 0).tolist()
        for done, number in enumerate(fresh, start=1):
            document = self._documents[number]
            passages = with_gaps(document.text, splitter.split(document))
            counts[number] = len(passages)
            yield from passages
            if done % PROGRESS_EVERY == 0 or done == len(fresh):
                report("split", done, len(fresh))

    def _rows(self, counts: Rows) -> Rows:
        """(passages,): for each row of the new index its place."""
        is_fresh = self._old_numbers < 0
        fresh_counts = counts * is_fresh
        firsts = self._n_old + np.cumsum(fresh_counts) - fresh_counts
        if self._old is not None:
            old_firsts = self._old.documents.first_rows[self._old_numbers]
            firsts = np.where(is_fresh, firsts, old_firsts)
        rows: Rows = np.arange(counts.sum())
        rows += np.repeat(firsts - (np.cumsum(counts) - counts), counts)
        return rows

    def _embed(self, fresh_dir: Path, embedder: TextEmbedder, report: Progress) -> int:
        """Write the fresh passages' vectors; returns how many of them had to be made."""
        hashes = [row.tobytes() for row in np.load(fresh_dir / HASHES)]
        # A changed document keeps the vectors of the passages that did not change.
        known = self._old.passages.rows_by_hash() if self._old and hashes else {}
        from_old = np.array([known.get(digest, -1) for digest in hashes], dtype=np.int64)
        total = int((from_old < 0).sum())
        done = 0

        def note(now: int, _: int) -> None:
            report("embed", done + now, total)

        with (
            (fresh_dir / VECTORS).open("wb") as file,
            closing(self._passages(fresh_dir)) as passages,
        ):
            for first in range(0, len(hashes), BLOCK):
                rows = from_old[first : first + BLOCK]
                vectors = np.empty((len(rows), embedder.dim), dtype=np.float32)
                if self._old is not None:
                    vectors[rows >= 0] = self._old.dense.vectors(rows[rows >= 0])
                if len(missing := np.flatnonzero(rows < 0)):
                    places = (self._n_old + first + missing).tolist()
                    texts = [passages[place].indexed_text for place in places]
                    vectors[missing] = embedder.encode_passages(texts, progress=note)
                    done += len(missing)
                file.write(vectors.data)
        return total

    def _passages(self, fresh_dir: Path) -> "_OldAndFresh":
        return _OldAndFresh(self._old.passages if self._old else None, fresh_dir)

    def _sample(self, rows: Rows, fresh_dir: Path) -> list[str]:
        with closing(self._passages(fresh_dir)) as passages:
            return sample_queries(passages.__getitem__, rows.tolist(), SAMPLE)


def sample_queries(read: Callable[[int], Passage], rows: Sequence[int], most: int) -> list[str]:
    """What users may type, for want of their questions: beginnings of up to `most` passages.

    Spread over all of `rows`, each of which `read` turns into a passage.
    """
    chosen = rows[:: max(1, len(rows) // most)][:most]
    texts = (read(row).text[:SAMPLE_CHARS] for row in chosen)
    return [" ".join(text.split()[:SAMPLE_WORDS]) for text in texts]


def _each(digests: bytes) -> list[bytes]:
    return [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]


def _numbers(index: Index) -> dict[bytes, int]:
    """Digest → document number."""
    return {digest: number for number, digest in enumerate(_each(index.documents.digests))}


class _OldAndFresh:
    """Passages by place: the old index's first, then the fresh."""

    def __init__(self, old: Passages | None, fresh_dir: Path) -> None:
        self._old = old
        self._n_old = len(old) if old is not None else 0
        self._fresh_dir = fresh_dir
        self._fresh: Passages | None = None

    def __getitem__(self, place: int) -> Passage:
        if self._old is not None and place < self._n_old:
            return self._old[place]
        # Opened when first asked for: there may be none, which no mapping can hold.
        self._fresh = self._fresh or Passages.load(self._fresh_dir)
        return self._fresh[place - self._n_old]

    def close(self) -> None:
        if self._fresh is not None:
            self._fresh.close()


def with_gaps(text: str, passages: list[Passage]) -> list[Passage]:
    """The passages of one document, each with the white space between it and the one before."""
    gaps = [text[before.end : passage.start] for before, passage in pairwise(passages)]
    return passages[:1] + [
        msgspec.structs.replace(passage, gap=gap) if gap.isspace() else passage
        for passage, gap in zip(passages[1:], gaps, strict=True)
    ]
