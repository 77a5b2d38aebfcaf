"""Documents → passages → a new index generation that takes over when it is whole."""

import hashlib
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np

from retrieval.dense import build_dense
from retrieval.documents import Skipped, read_documents
from retrieval.generations import new_generation, only_writer, prune
from retrieval.index import (
    DENSE,
    FORMAT_VERSION,
    MANIFEST,
    SPARSE,
    Counts,
    EmbeddingInfo,
    FileInfo,
    Index,
    Manifest,
    file_info,
    open_index,
)
from retrieval.sparse import Language, SparseInfo, build_sparse
from retrieval.splitting import Splitter
from retrieval.store import content_hash, write_store
from retrieval.types import (
    Document,
    Float32Array,
    IndexCorrupt,
    IndexMismatch,
    IndexMissing,
    NoDocuments,
    Passage,
    Progress,
    TextEmbedder,
)

PROGRESS_EVERY = 64
SAMPLE = 256
SAMPLE_WORDS = 12


class BuildReport(msgspec.Struct, frozen=True, kw_only=True):
    generation: str
    documents: int
    passages: int
    reused_vectors: int
    skipped: list[Skipped]
    seconds: float
    unchanged: bool


class Corpus(msgspec.Struct, frozen=True):
    documents: list[Document]
    skipped: list[Skipped]
    digest: str


def build_index(
    index_dir: str | Path,
    paths: Iterable[str | Path],
    embedder: TextEmbedder,
    *,
    on_progress: Progress | None = None,
    splitter: Splitter | None = None,
    language: Language = "english",
) -> BuildReport:
    """Index all documents under `paths` in place of what `index_dir` serves now.

    `language` decides what BM25 takes for one word and for none (`retrieval.sparse`).
    `on_progress` gets the stages read (total 0: not known), split, embed and write.
    Until the last step the old generation serves; it is kept for a rollback. Raises NoDocuments,
    IndexBusy, IndexUnwritable; whatever is raised, the old generation is untouched.
    """
    started = time.monotonic()
    index_dir = Path(index_dir)
    report = on_progress or _silent
    splitter = splitter or Splitter(embedder.tokenizer, limit=embedder.max_tokens)
    sparse = SparseInfo(language=language)
    with only_writer(index_dir):
        corpus = read_corpus(paths, report)
        old = _current(index_dir)
        if old is not None and _is_same(old.manifest, corpus, splitter, embedder, sparse):
            return _report(old.manifest, corpus, started, reused=len(old), unchanged=True)
        passages = _split(corpus.documents, splitter, report)
        embeddings, reused = _embed(passages, embedder, old, report)
        report("write", 0, 1)
        with new_generation(index_dir) as (generation, directory):
            dense = build_dense(
                embeddings, directory / DENSE, lambda: _sample_queries(passages, embedder)
            )
            texts = (passage.indexed_text for passage in passages)
            build_sparse(texts, directory / SPARSE, sparse)
            write_store(passages, directory)
            manifest = Manifest(
                format_version=FORMAT_VERSION,
                id=generation,
                created_at=datetime.now(UTC).isoformat(),
                embedding=EmbeddingInfo.of(embedder),
                splitter=splitter.params,
                dense=dense,
                sparse=sparse,
                counts=Counts(len(corpus.documents), len(passages), len(corpus.skipped)),
                corpus_digest=corpus.digest,
                files=_file_infos(directory),
            ).sealed()
            (directory / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        prune(index_dir, keep={generation, old.generation if old else generation})
        report("write", 1, 1)
    return _report(manifest, corpus, started, reused=reused, unchanged=False)


def read_corpus(paths: Iterable[str | Path], report: Progress) -> Corpus:
    """Raises NoDocuments with the first reasons when nothing could be read."""
    documents: list[Document] = []
    skipped: list[Skipped] = []
    digest = hashlib.sha256()
    for found in read_documents(paths):
        if isinstance(found, Skipped):
            skipped.append(found)
            continue
        documents.append(found)
        digest.update(msgspec.msgpack.encode(found))
        if len(documents) % PROGRESS_EVERY == 0:
            report("read", len(documents), 0)
    if not documents:
        reasons = "; ".join(f"{skip.path}: {skip.reason}" for skip in skipped[:3])
        raise NoDocuments(f"no document to index ({reasons or 'the paths hold no known files'})")
    report("read", len(documents), len(documents))
    return Corpus(documents, skipped, digest.hexdigest())


def _split(documents: list[Document], splitter: Splitter, report: Progress) -> list[Passage]:
    passages: list[Passage] = []
    for done, document in enumerate(documents, start=1):
        passages.extend(with_gaps(document.text, splitter.split(document)))
        if done % PROGRESS_EVERY == 0 or done == len(documents):
            report("split", done, len(documents))
    return passages


def with_gaps(text: str, passages: list[Passage]) -> list[Passage]:
    """The passages of one document, each with the white space that parts it from the one before."""
    gaps = [text[before.end : passage.start] for before, passage in pairwise(passages)]
    return passages[:1] + [
        msgspec.structs.replace(passage, gap=gap) if gap.isspace() else passage
        for passage, gap in zip(passages[1:], gaps, strict=True)
    ]


def _embed(
    passages: list[Passage], embedder: TextEmbedder, old: Index | None, report: Progress
) -> tuple[Float32Array, int]:
    """Embeddings of all passages, and how many of them were taken over."""
    embeddings = np.empty((len(passages), embedder.dim), dtype=np.float32)
    same_model = old is not None and old.manifest.embedding == EmbeddingInfo.of(embedder)
    known = old.store.rows_by_hash() if old is not None and same_model else {}
    from_old = [known.get(content_hash(passage.indexed_text), -1) for passage in passages]
    old_rows = np.array(from_old, dtype=np.int64)
    reusable, fresh = np.flatnonzero(old_rows >= 0), np.flatnonzero(old_rows < 0)
    if old is not None and len(reusable):
        embeddings[reusable] = old.dense.vectors(old_rows[reusable])
    if len(fresh):
        embeddings[fresh] = embedder.encode_passages(
            [passages[row].indexed_text for row in fresh],
            progress=lambda done, total: report("embed", done, total),
        )
    return embeddings, len(reusable)


def _sample_queries(passages: list[Passage], embedder: TextEmbedder) -> Float32Array:
    """Embeddings of what a searcher may type: beginnings of passages from all over the corpus."""
    step = max(1, len(passages) // SAMPLE)
    beginnings = [
        " ".join(passage.text[:500].split()[:SAMPLE_WORDS]) for passage in passages[::step]
    ]
    return embedder.encode_queries(beginnings[:SAMPLE])


def _current(index_dir: Path) -> Index | None:
    """The index that serves; checked in full, since its vectors may live on in the next."""
    try:
        return open_index(index_dir)
    except (IndexMissing, IndexCorrupt, IndexMismatch):
        return None


def _is_same(
    manifest: Manifest,
    corpus: Corpus,
    splitter: Splitter,
    embedder: TextEmbedder,
    sparse: SparseInfo,
) -> bool:
    return (
        manifest.corpus_digest == corpus.digest
        and manifest.embedding == EmbeddingInfo.of(embedder)
        and manifest.splitter == splitter.params
        and manifest.sparse == sparse
    )


def _file_infos(directory: Path) -> dict[str, FileInfo]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): file_info(path) for path in files}


def _report(
    manifest: Manifest, corpus: Corpus, started: float, *, reused: int, unchanged: bool
) -> BuildReport:
    return BuildReport(
        generation=manifest.id,
        documents=manifest.counts.documents,
        passages=manifest.counts.passages,
        reused_vectors=reused,
        skipped=corpus.skipped,
        seconds=time.monotonic() - started,
        unchanged=unchanged,
    )


def _silent(stage: str, done: int, total: int) -> None:
    pass
