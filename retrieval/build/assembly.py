"""Write the files of a new generation from those of the one before and what is fresh.

Needs no model. A large generation is written by a process of its own, so that the parent's
interpreter lock stays free for those it serves. The process writes into one directory and swaps no
pointer: killed, it leaves files that the next build removes.
"""

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

import retrieval
from retrieval.index.dense import DenseIndex, DenseInfo, Earlier, build_dense
from retrieval.index.fields import Attributes, write_documents
from retrieval.index.index import DENSE, SPARSE
from retrieval.index.passages import RECORDS, Passages, gather_passages
from retrieval.index.sparse import SparseInfo, terms, write_sparse
from retrieval.index.terms import TermCounts, count_terms, gather
from retrieval.types import Float32Array, IndexUnwritable, Rows

QUERIES = "queries.npy"
"""Embeddings of texts like those that will be searched for: what recall is measured on."""

FRESH = "fresh"
PLAN = "plan.msgpack"
ROWS = "rows.npy"
COUNTS = "counts.npy"
VECTORS = "vectors.f32"

INLINE_PASSAGES = 1_000
"""Up to this size a process takes longer to start than to do the work: it costs 0.8 s of CPU. At
8,000 the work in this one would keep a loop waiting for 0.26 s."""

_START = "import sys; sys.path[:] = sys.argv[2:]; from retrieval.build.assembly import main; main()"


class Plan(msgspec.Struct, frozen=True):
    """What `carry_out` needs to know; lies under FRESH, beside the fresh passages and vectors.

    The places in ROWS count through the old generation's passages first, then the fresh.
    """

    old: str | None
    """Directory of the generation that unchanged passages are taken from."""
    old_dense: DenseInfo | None
    keeps_terms: bool
    """The old generation's terms are of the same language."""
    sparse: SparseInfo
    dim: int
    digests: bytes
    """DIGEST_BYTES for each document, in row order."""

    def write(self, directory: Path) -> None:
        (directory / FRESH / PLAN).write_bytes(msgspec.msgpack.encode(self))


def assemble(directory: Path, n_passages: int) -> DenseInfo:
    """Carry out the plan in `directory`; afterwards what was fresh lies there no more.

    Raises OSError, or IndexUnwritable where the process that does it ends early.
    """
    info = _in_process(directory) if n_passages > INLINE_PASSAGES else carry_out(directory)
    shutil.rmtree(directory / FRESH)
    return info


def carry_out(directory: Path) -> DenseInfo:
    """Write passages, documents, terms and vectors into `directory`, as the plan there says."""
    fresh = directory / FRESH
    plan = msgspec.msgpack.decode((fresh / PLAN).read_bytes(), type=Plan)
    rows: Rows = np.load(fresh / ROWS)
    old = Path(plan.old) if plan.old else None
    gather_passages([old, fresh] if old else [fresh], rows, directory)
    counts: Rows = np.load(fresh / COUNTS)
    with closing(Passages.load(directory)) as passages:
        write_documents(_documents(passages, counts), counts, plan.digests, directory)
    _write_terms(plan, old, rows, directory)
    return _write_vectors(plan, old, rows, directory)


def _documents(passages: Passages, counts: Rows) -> Iterator[Attributes]:
    """What the first passage of each document says of it; `counts` (documents,) its passages."""
    decoder = msgspec.msgpack.Decoder(Attributes)
    for row in (np.cumsum(counts) - counts).tolist():
        yield decoder.decode(passages.record(row))


def _write_terms(plan: Plan, old: Path | None, rows: Rows, directory: Path) -> None:
    split = partial(terms, language=plan.sparse.language)
    if old is not None and plan.keeps_terms:
        new = count_terms(_texts(directory / FRESH), split)
        counted = gather([TermCounts.load(old / SPARSE), new], rows)
    else:
        counted = count_terms(_texts(directory), split)
    write_sparse(counted, directory / SPARSE, plan.sparse)


def _texts(directory: Path) -> Iterator[str]:
    if not (directory / RECORDS).stat().st_size:
        return  # nothing is fresh where documents were only deleted
    with closing(Passages.load(directory)) as passages:
        for row in range(len(passages)):
            yield passages[row].indexed_text


def _write_vectors(plan: Plan, old: Path | None, rows: Rows, directory: Path) -> DenseInfo:
    fresh: Float32Array = np.fromfile(directory / FRESH / VECTORS, dtype=np.float32)
    fresh = fresh.reshape(-1, plan.dim)
    if old is None or plan.old_dense is None:
        return build_dense(fresh[rows], directory / DENSE, partial(_queries, directory))
    index = DenseIndex.load(old / DENSE)
    is_old = rows < len(index)
    vectors = np.empty((len(rows), plan.dim), dtype=np.float32)
    vectors[is_old] = index.vectors(rows[is_old])
    vectors[~is_old] = fresh[rows[~is_old] - len(index)]
    # Queries are embedded anew only where lists are; whoever keeps the lists keeps the queries too.
    if (old / QUERIES).exists() and not (directory / QUERIES).exists():
        shutil.copyfile(old / QUERIES, directory / QUERIES)
    earlier = Earlier(index, plan.old_dense, np.where(is_old, rows, -1))
    return build_dense(vectors, directory / DENSE, partial(_queries, directory), earlier=earlier)


def _queries(directory: Path) -> Float32Array:
    queries: Float32Array = np.load(directory / QUERIES)
    return queries


def _in_process(directory: Path) -> DenseInfo:
    # -P and absolute paths alone: the working directory may hold a stranger's modules.
    paths = [str(Path(retrieval.__file__).parents[1]), *filter(os.path.isabs, sys.path)]
    with subprocess.Popen(
        [sys.executable, "-P", "-c", _START, str(directory), *paths],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
    ) as child:
        try:
            # Its standard input stays open as long as this process lives: see `_end_with_parent`.
            out, errors = _read_both(child)
        except BaseException:
            child.kill()
            raise
    if child.returncode == 0:
        return msgspec.json.decode(out, type=DenseInfo)
    lines = errors.decode("utf-8", "replace").strip().splitlines() or ["no message"]
    raise IndexUnwritable(
        f"cannot write a new index in {directory.parents[1]}: the process that puts it together"
        f" ended with {child.returncode} ({lines[-1]}); the one before it stays"
    )


def _read_both(child: "subprocess.Popen[bytes]") -> tuple[bytes, bytes]:
    """(stdout, stderr), without closing its standard input as `communicate` would.

    Both at once: a child that fills the pipe nobody reads would wait for ever.
    """
    assert child.stdout is not None and child.stderr is not None
    with ThreadPoolExecutor(1) as pool:
        errors = pool.submit(child.stderr.read)
        return child.stdout.read(), errors.result()


def main() -> None:
    """The process: sys.argv[1] is the directory. Prints a DenseInfo as JSON."""
    os.nice(10)  # behind whoever serves on the same cores
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        info = carry_out(Path(sys.argv[1]))
    except OSError as exc:
        sys.exit(exc.strerror or str(exc))
    print(msgspec.json.encode(info).decode(), flush=True)


def _end_with_parent() -> None:
    """Nothing is ever written here: the read returns when the parent has died, however it did."""
    os.read(0, 1)
    os._exit(1)
