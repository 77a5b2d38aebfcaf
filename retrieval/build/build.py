"""Build an index from documents: a new generation, which serves once it is complete on disk.

`fresh` takes from the generation before what has not changed and embeds the rest, `assembly` writes
the files, `index.generations` makes them the ones that serve.
"""

import hashlib
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from retrieval.build.assembly import assemble
from retrieval.build.fresh import PROGRESS_EVERY, Changes, Reusable, document_digest
from retrieval.build.splitting import Splitter
from retrieval.index.generations import new_generation, only_writer, prune
from retrieval.index.index import (
    FORMAT_VERSION,
    MANIFEST,
    Counts,
    EmbeddingInfo,
    FileInfo,
    Index,
    Manifest,
    file_info,
    list_generations,
    open_index,
)
from retrieval.index.sparse import SparseInfo
from retrieval.index.tombstones import forget
from retrieval.reading.documents import Skipped, read_documents
from retrieval.types import (
    Document,
    IndexCorrupt,
    IndexMismatch,
    IndexMissing,
    IndexUnwritable,
    Language,
    NoDocuments,
    Progress,
    TextEmbedder,
    ignore_progress,
)


class BuildReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a build did; the counts are of the whole generation."""

    generation: str
    documents: int
    passages: int
    reused_vectors: int
    skipped: list[Skipped]
    seconds: float
    unchanged: bool
    """The generation that serves was made from just this; nothing was written."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides what a generation holds; equal ones need no second build."""

    corpus_digest: str
    seq: int
    embedding: EmbeddingInfo
    splitter: dict[str, object]
    sparse: SparseInfo

    @classmethod
    def of(cls, manifest: Manifest) -> "Made":
        return msgspec.convert(manifest, cls, from_attributes=True)


class Corpus(msgspec.Struct, frozen=True):
    """What was read from paths, and what could not be."""

    documents: list[Document]
    skipped: list[Skipped]


def build_index(
    index_dir: str | Path,
    paths: Iterable[str | Path],
    embedder: TextEmbedder,
    *,
    on_progress: Progress = ignore_progress,
    splitter: Splitter | None = None,
    language: Language = "english",
) -> BuildReport:
    """Index all documents under `paths` in place of what `index_dir` serves now.

    As `build_documents`; `on_progress` gets the stage read (total 0: not known) before its others.
    """
    started = time.monotonic()
    with only_writer(Path(index_dir)):
        corpus = read_corpus(paths, on_progress)
        report = build_documents(
            index_dir,
            corpus.documents,
            embedder,
            skipped=corpus.skipped,
            on_progress=on_progress,
            splitter=splitter,
            language=language,
        )
    return msgspec.structs.replace(report, seconds=time.monotonic() - started)


def build_documents(
    index_dir: str | Path,
    documents: Sequence[Document],
    embedder: TextEmbedder,
    *,
    seq: int = 0,
    skipped: Sequence[Skipped] = (),
    on_progress: Progress = ignore_progress,
    splitter: Splitter | None = None,
    language: Language = "english",
) -> BuildReport:
    """Index these documents, no two of one id, in place of what `index_dir` serves now.

    `seq` is the library's change that they are the state of. `language` decides what BM25 takes for
    one word and for none (`retrieval.index.sparse`). `on_progress` gets the stages split, embed and
    write. Until the last step the old generation serves; it is kept for a rollback. Raises
    NoDocuments, IndexBusy, IndexUnwritable; whatever is raised, the old generation is untouched.
    """
    started = time.monotonic()
    if not documents:
        raise NoDocuments("no document to index")
    index_dir = Path(index_dir).absolute()  # for a process that works elsewhere
    splitter = splitter or Splitter(embedder.tokenizer, limit=embedder.max_tokens)
    digests = b"".join(document_digest(document) for document in documents)
    wanted = Made(
        corpus_digest=hashlib.sha256(digests).hexdigest(),
        seq=seq,
        embedding=EmbeddingInfo.of(embedder),
        splitter=splitter.params,
        sparse=SparseInfo(language=language),
    )
    with only_writer(index_dir):
        old = _current(index_dir)
        if old is not None and Made.of(old.manifest) == wanted:
            return _report(old.manifest, skipped, started, reused=len(old), unchanged=True)
        changes = Changes(documents, digests, _reusable(old, wanted))
        with new_generation(index_dir) as (generation, directory):
            n_passages, reused = changes.write(
                directory, splitter, embedder, wanted.sparse, on_progress
            )
            if not n_passages:
                raise NoDocuments("no document to index has any text")
            on_progress("write", 0, 1)
            manifest = Manifest(
                format_version=FORMAT_VERSION,
                id=generation,
                created_at=datetime.now(UTC).isoformat(),
                dense=assemble(directory, n_passages),
                counts=Counts(len(documents), n_passages, len(skipped)),
                files=_file_infos(directory),
                **msgspec.structs.asdict(wanted),
            ).sealed()
            (directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        # The one before stays for a rollback, and for queries that began on it.
        prune(index_dir, keep={generation, old.generation if old else generation})
        _forget_tombstones(index_dir)
        on_progress("write", 1, 1)
    return _report(manifest, skipped, started, reused=reused, unchanged=False)


def read_corpus(paths: Iterable[str | Path], report: Progress) -> Corpus:
    """Raises NoDocuments with the first reasons when nothing could be read."""
    documents: list[Document] = []
    skipped: list[Skipped] = []
    for found in read_documents(paths):
        if isinstance(found, Skipped):
            skipped.append(found)
            continue
        documents.append(found)
        if len(documents) % PROGRESS_EVERY == 0:
            report("read", len(documents), 0)
    if not documents:
        reasons = "; ".join(f"{skip.path}: {skip.reason}" for skip in skipped[:3])
        raise NoDocuments(f"no document to index ({reasons or 'the paths hold no known files'})")
    report("read", len(documents), len(documents))
    return Corpus(documents, skipped)


def _current(index_dir: Path) -> Index | None:
    """The index that serves; checked in full, since parts of it may live on in the next."""
    try:
        return open_index(index_dir)
    except (IndexMissing, IndexCorrupt, IndexMismatch):
        return None


def _reusable(old: Index | None, wanted: Made) -> Reusable | None:
    if old is None or old.manifest.embedding != wanted.embedding:
        return None
    return Reusable(
        old,
        splits_alike=old.manifest.splitter == wanted.splitter,
        counts_alike=old.manifest.sparse.language == wanted.sparse.language,
    )


def _forget_tombstones(index_dir: Path) -> None:
    oldest = min((manifest.seq for manifest in list_generations(index_dir)), default=0)
    # The new generation serves already; tombstones too many do no harm.
    with suppress(IndexUnwritable, IndexCorrupt):
        forget(index_dir, oldest=oldest)


def _file_infos(directory: Path) -> dict[str, FileInfo]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): file_info(path) for path in files}


def _report(
    manifest: Manifest,
    skipped: Sequence[Skipped],
    started: float,
    *,
    reused: int,
    unchanged: bool,
) -> BuildReport:
    return BuildReport(
        generation=manifest.id,
        documents=manifest.counts.documents,
        passages=manifest.counts.passages,
        reused_vectors=reused,
        skipped=list(skipped),
        seconds=time.monotonic() - started,
        unchanged=unchanged,
    )
