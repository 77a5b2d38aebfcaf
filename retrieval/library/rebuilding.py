"""Rebuild the index with another embedding model, and compare the two before the new one serves.

Nothing of the old generation is reused: its vectors are another model's.
"""

import asyncio
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from retrieval.build.build import BuildReport, build_documents
from retrieval.build.fresh import sample_queries
from retrieval.index.disk import sync
from retrieval.index.generations import only_writer, point_to, prune
from retrieval.index.index import GENERATIONS, Index, open_generation, open_index
from retrieval.library.library import Library
from retrieval.library.publishing import only_publisher, serving
from retrieval.library.records import mapped
from retrieval.library.uploads import read_waiting
from retrieval.search.retriever import Retriever
from retrieval.types import (
    Language,
    NoDocuments,
    Progress,
    RetrievalError,
    TextEmbedder,
    ignore_progress,
)

BESIDE = ".rebuild"
TOP = 10
"""Hits that are compared for each question."""
SAMPLE = 100


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
    on_progress: Progress = ignore_progress,
) -> BuildReport:
    """Build from all of the library, call `compare(old, new)`, swap. Changes meanwhile wait.

    `old` is None where there is none that opens. Whatever `compare` raises keeps the old one and is
    raised here. Raises NoDocuments, IndexBusy, IndexUnwritable.
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
    """Ask both the same questions and compare the first TOP hits; blocking."""
    return asyncio.run(_overlap(old, new, questions))


def sample_questions(index: Index) -> list[str]:
    """Questions to compare with where there are none of users."""
    return sample_queries(index.passages.__getitem__, range(len(index)), SAMPLE)


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
        # Both below `index_dir`, so on one disk, where a rename is atomic.
        os.rename(beside / GENERATIONS / generation, index_dir / GENERATIONS / generation)
        sync(index_dir / GENERATIONS)
        point_to(index_dir, generation)
        prune(index_dir, keep={generation, before or generation})
