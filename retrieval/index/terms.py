"""How often each term is in each passage: counted once, and kept on disk for the next build.

From the counts `sparse` computes every BM25 weight anew, since each depends on all lengths.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from retrieval.types import IndexCorrupt, Rows

Ids = npt.NDArray[np.int32]

VOCABULARY = "terms.json"
STARTS = "term_starts.npy"
IDS = "term_ids.npy"
COUNTS = "term_counts.npy"


class TermCounts(msgspec.Struct, frozen=True):
    """Row n has the terms ids[starts[n]:starts[n + 1]], ascending, as often as `counts` says.

    `vocabulary` is sorted and has no term that no row has, so that the same texts give the same
    arrays, however they came together.
    """

    vocabulary: list[str]
    starts: Rows
    ids: Ids
    counts: Ids

    def __len__(self) -> int:
        return len(self.starts) - 1

    def save(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / VOCABULARY).write_bytes(msgspec.json.encode(self.vocabulary))
        for name, values in ((STARTS, self.starts), (IDS, self.ids), (COUNTS, self.counts)):
            np.save(directory / name, values, allow_pickle=False)

    @classmethod
    def load(cls, directory: Path) -> "TermCounts":
        """Raises IndexCorrupt."""
        try:
            vocabulary = msgspec.json.decode((directory / VOCABULARY).read_bytes(), type=list[str])
            arrays = [
                np.load(directory / name, mmap_mode="r", allow_pickle=False)
                for name in (STARTS, IDS, COUNTS)
            ]
        except (OSError, ValueError, EOFError, msgspec.DecodeError) as exc:
            raise IndexCorrupt(f"{directory} holds no readable terms: {exc}") from exc
        return cls(vocabulary, *map(np.asarray, arrays))


def count_terms(texts: Iterable[str], terms: Callable[[str], list[str]]) -> TermCounts:
    """Count the terms of texts in row order."""
    numbers: dict[str, int] = {}
    starts, ids, counts = array("q", [0]), array("i"), array("i")
    for text in texts:
        counted = Counter(terms(text))
        ids.extend(numbers.setdefault(term, len(numbers)) for term in counted)
        counts.extend(counted.values())
        starts.append(len(ids))
    return _sorted(list(numbers), *map(np.asarray, (starts, ids, counts)))


def gather(parts: Sequence[TermCounts], rows: Rows) -> TermCounts:
    """Counts whose row n is row rows[n] of `parts`, whose rows count on from one to the next."""
    vocabulary = sorted(set().union(*(part.vocabulary for part in parts)))
    numbers = {term: number for number, term in enumerate(vocabulary)}
    ids: list[Ids] = []
    counts: list[Ids] = []
    for part in parts:
        renumbered = np.array([numbers[term] for term in part.vocabulary], dtype=np.int32)
        ids.append(renumbered[part.ids])
        counts.append(part.counts)
    lengths = np.concatenate([np.diff(part.starts) for part in parts])
    begins = np.concatenate(([0], np.cumsum(lengths)))[:-1]
    starts = np.concatenate(([0], np.cumsum(lengths[rows])))
    # Where each entry comes from: its row's old beginning plus its place in the row.
    places = np.arange(starts[-1]) + np.repeat(begins[rows] - starts[:-1], lengths[rows])
    return _without_unused(
        vocabulary, starts, np.concatenate(ids)[places], np.concatenate(counts)[places]
    )


def _sorted(vocabulary: list[str], starts: Rows, ids: Ids, counts: Ids) -> TermCounts:
    """With the vocabulary in order, and each row by its term ids."""
    order = sorted(range(len(vocabulary)), key=vocabulary.__getitem__)
    renumbered = np.empty(len(order), dtype=np.int32)
    renumbered[order] = np.arange(len(order), dtype=np.int32)
    ids = renumbered[ids]
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    by_row_and_id = np.argsort((rows << 32) | ids)  # one sort by two keys
    return TermCounts(
        [vocabulary[n] for n in order], starts, ids[by_row_and_id], counts[by_row_and_id]
    )


def _without_unused(vocabulary: list[str], starts: Rows, ids: Ids, counts: Ids) -> TermCounts:
    """Without the terms that only removed rows had, and the ids numbered anew."""
    used = np.bincount(ids, minlength=len(vocabulary)) > 0
    renumbered = (np.cumsum(used) - 1).astype(np.int32)
    kept = [term for term, is_used in zip(vocabulary, used.tolist(), strict=True) if is_used]
    return TermCounts(kept, starts, renumbered[ids], counts)
