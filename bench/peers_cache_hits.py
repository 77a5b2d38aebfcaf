"""How often a peer's rule serves what it should and what it must not, beside ours.

Each rule is taken at the threshold it ships with, over the same vectors. The peers' rule is one
cosine; that it is read rightly is checked against the peer itself on a sample of the pairs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from api.evaluation.cache import Cases, Pair, Rate, judge_file, judge_pairs, read_pairs
from bench.caching import THRESHOLD
from bench.peers_cache_tasks import NONE, Result, Task, Texts
from retrieval.models.embedder import load_embedder
from retrieval.models.resolve import MINILM
from retrieval.types import Float32Array

MAX_PAIRS = 3_000
N_CHECKED = 120


class PairFile(NamedTuple):
    name: str
    pairs: list[Pair]
    cosines: Float32Array
    """(pairs,)"""
    ours: Cases
    task: Task
    """For positives alone all of them: one cache of every `a`, each `b` asked. Else a sample."""


class Vectors:
    """Unit vectors of texts, each encoded once."""

    def __init__(self) -> None:
        self._embedder = load_embedder(MINILM, threads=1)
        self._known: dict[str, Float32Array] = {}

    def __call__(self, texts: Sequence[str]) -> Float32Array:
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        if missing:
            self._known |= zip(missing, self._embedder.encode_queries(missing), strict=True)
        return np.stack([self._known[text] for text in texts])

    def close(self) -> None:
        self._embedder.close()


def read_pair_files(folder: Path) -> list[PairFile]:
    """Conversations are left out: what of them is asked is up to the peers' callers."""
    vectors = Vectors()
    try:
        files = [_read(path, vectors) for path in sorted(folder.glob("*.jsonl*"))]
    finally:
        vectors.close()
    return [file for file in files if file is not None]


def _read(path: Path, vectors: Vectors) -> PairFile | None:
    pairs = read_pairs(path)
    if not isinstance(pairs[0].a, str):
        return None
    if all(pair.label for pair in pairs):
        ours, mode, sample = judge_file(path, vectors), "all", pairs
    else:
        pairs = _evenly(pairs, MAX_PAIRS)
        name = path.name.removesuffix(".gz").removesuffix(".jsonl")
        ours = Cases(name, judge_pairs(pairs, vectors))
        mode, sample = "each", _evenly(pairs, N_CHECKED)
    a, b = _sides(pairs, vectors)
    task = Task(ours.name, mode, *_sides(sample, vectors))
    return PairFile(ours.name, pairs, np.einsum("nd,nd->n", a.vectors, b.vectors), ours, task)


def _evenly(pairs: list[Pair], n: int) -> list[Pair]:
    rows = np.unique(np.linspace(0, len(pairs) - 1, n).astype(int))
    return [pairs[row] for row in rows]


def _sides(pairs: list[Pair], vectors: Vectors) -> tuple[Texts, Texts]:
    a, b = [str(pair.a) for pair in pairs], [str(pair.b) for pair in pairs]
    return Texts(a, vectors(a)), Texts(b, vectors(b))


def hits_table(files: list[PairFile], results: dict[str, dict[str, Result]]) -> str:
    lines = [
        "| pairs | | served from cosine | recall | false hits | rule as the peer serves |",
        "|---|---|---|---|---|---|",
    ]
    for file in files:
        right, wrong = (file.ours.served(THRESHOLD, traps=traps) for traps in (False, True))
        lines.append(f"| {file.name} | ours | {THRESHOLD:.2f} and no veto | {right} | {wrong} | |")
        for of_files in results.values():
            cells = _hits_cells(file, of_files[file.name])
            lines.append(f"| {file.name} | {of_files[file.name]['version']} | {cells} |")
    return "\n".join(lines)


def _hits_cells(file: PairFile, result: Result) -> str:
    if "left_out" in result:
        return f"left out: {result['left_out']} | | |"
    cosine = result["cosine"]
    if file.task.mode == "all":
        right, wrong, checked = *_looked_up(file, result["found"]), "is what it served"
    else:
        is_served = file.cosines >= cosine
        is_trap = np.array([not pair.label for pair in file.pairs])
        right, wrong = (_rate(is_served[is_trap == of_traps]) for of_traps in (False, True))
        checked = _agreement(file.task, cosine, result["found"])
    return f"{cosine:.2f} | {right} | {wrong} | {checked}"


def _looked_up(file: PairFile, found: list[int]) -> tuple[Rate, Rate]:
    """One cached question is right for each asked; any other one that is served is false."""
    a = [pair.a for pair in file.pairs]
    right = [row != NONE and a[row] == a[asked] for asked, row in enumerate(found)]
    served = [row != NONE for row in found]
    return _rate(right), Rate(sum(served) - sum(right), len(found))


def _rate(are: Sequence[bool] | np.ndarray) -> Rate:
    return Rate(int(np.sum(are)), len(are))


def _agreement(task: Task, cosine: float, found: list[int]) -> str:
    cosines = np.einsum("nd,nd->n", task.cached.vectors, task.asked.vectors)
    served = np.array(found) != NONE
    return f"{int(np.sum(served == (cosines >= cosine)))} of {len(found)} pairs"
