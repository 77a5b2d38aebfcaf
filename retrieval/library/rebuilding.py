"""A generation made anew from the library, looked at beside the one that serves, then swapped in.

For another embedding model: nothing of the old generation is taken over, and nothing is served of
the new one before it has been compared.
"""

import asyncio
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from retrieval.build.build import BuildReport, build_documents
from retrieval.index.disk import sync
from retrieval.index.generations import only_writer, point_to, prune
from retrieval.index.index import GENERATIONS, Index, open_generation, open_index
from retrieval.index.sparse import Language
from retrieval.library.library import Library
from retrieval.library.publishing import only_publisher, serving
from retrieval.library.records import mapped
from retrieval.library.uploads import read_waiting
from retrieval.search.retriever import Retriever
from retrieval.types import NoDocuments, Progress, RetrievalError, TextEmbedder

BESIDE = ".rebuild"
TOP = 10
SAMPLE = 100
SAMPLE_WORDS = 12


class Overlap(msgspec.Struct, frozen=True):
    """How alike two indexes answer the same questions, by the documents of their first hits."""

    questions: int
    mean: float
    """Share of documents that both found among those that either found; 1: always the same."""
    same_first: float
    """Share of questions with the same document first."""


def rebuild(
    library: Library,
    embedder: TextEmbedder,
    *,
    language: Language,
    compare: Callable[[Index | None, Index], object],
    on_progress: Progress | None = None,
) -> BuildReport:
    """Build from all of the library, call `compare(old, new)`, swap. Changes meanwhile wait.

    What `compare` raises keeps the old one; `old` is None where there is none that opens. Raises
    NoDocuments, IndexBusy, IndexUnwritable.
    """
    index_dir = library.index_dir
    beside = index_dir / BESIDE
    with only_publisher(index_dir):
        shutil.rmtree(beside, ignore_errors=True)  # of one that was killed
        try:
            read_waiting(library, lambda: None)
            seq, documents = library.snapshot()
            if not documents:
                raise NoDocuments("the library is empty: run `ragrelay index PATH…` first")
            report = build_documents(
                beside, documents, embedder, seq=seq, on_progress=on_progress, language=language
            )
            old, new = _opened(index_dir), open_index(beside)
            try:
                compare(old, new)
            finally:
                new.close()
                if old is not None:
                    old.close()
            _take_over(index_dir, beside, report.generation)
            library.note_built(seq)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    return report


def overlap(old: Retriever, new: Retriever, questions: Sequence[str]) -> Overlap:
    """Ask both the same questions; blocking."""
    return asyncio.run(_overlap(old, new, questions))


def sample_questions(index: Index) -> list[str]:
    """Beginnings of passages from all over the corpus."""
    step = max(1, len(index) // SAMPLE)
    rows = list(range(0, len(index), step))[:SAMPLE]
    return [" ".join(index.store[row].text.split()[:SAMPLE_WORDS]) for row in rows]


async def _overlap(old: Retriever, new: Retriever, questions: Sequence[str]) -> Overlap:
    shares, first = [], 0
    for question in questions:
        before, after = await _documents(old, question), await _documents(new, question)
        either = set(before) | set(after)
        shares.append(len(set(before) & set(after)) / len(either) if either else 1.0)
        first += before[:1] == after[:1]
    n = max(1, len(shares))
    return Overlap(len(shares), sum(shares) / n, first / n)


async def _documents(retriever: Retriever, question: str) -> list[str]:
    found = await retriever.retrieve(question, TOP)
    return [hit.passage.doc_id for hit in found.hits]


def _opened(index_dir: Path) -> Index | None:
    generation = serving(index_dir)
    try:
        return None if generation is None else open_generation(index_dir, generation)
    except RetrievalError:
        return None


def _take_over(index_dir: Path, beside: Path, generation: str) -> None:
    before = serving(index_dir)
    with only_writer(index_dir), mapped(index_dir):
        os.rename(beside / GENERATIONS / generation, index_dir / GENERATIONS / generation)
        sync(index_dir / GENERATIONS)
        point_to(index_dir, generation)
        prune(index_dir, keep={generation, before or generation})
