"""The passages of a generation on disk: msgpack records, their offsets, and a hash of each text."""

import hashlib
import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from retrieval.types import IndexCorrupt, Passage, Rows

RECORDS = "passages.msgpack"
OFFSETS = "offsets.npy"
HASHES = "hashes.npy"
HASH_BYTES = 16
COPIED_BYTES = 1 << 22

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Passage)


def content_hash(indexed_text: str) -> bytes:
    """HASH_BYTES; equal for texts that have the same vector."""
    return hashlib.sha256(indexed_text.encode()).digest()[:HASH_BYTES]


def write_passages(passages: Iterable[Passage], directory: Path) -> None:
    """Write the passages as rows 0 to n - 1; none is kept in memory."""
    lengths: list[int] = []
    hashes = bytearray()
    with (directory / RECORDS).open("wb") as blob:
        for passage in passages:
            lengths.append(blob.write(_encoder.encode(passage)))
            hashes += content_hash(passage.indexed_text)
    table = np.frombuffer(bytes(hashes), dtype=np.uint8).reshape(-1, HASH_BYTES)
    _write_tables(directory, np.array(lengths, dtype=np.int64), table)


def gather_passages(parts: Sequence[Path], rows: Rows, directory: Path) -> None:
    """Write as row n the row rows[n] of `parts`, whose rows count on from one to the next.

    Records are copied as bytes, runs of neighbours at once: nothing is decoded.
    """
    tables = [_read_tables(part) for part in parts]
    sizes = [len(hashes) for _, hashes in tables]
    firsts = np.cumsum([0, *sizes])
    with (directory / RECORDS).open("wb") as blob:
        for first, end in _runs(rows, firsts):
            part = int(np.searchsorted(firsts, first, side="right")) - 1
            offsets = tables[part][0][[first - firsts[part], end - firsts[part]]]
            _copy(parts[part] / RECORDS, offsets.tolist(), blob)
    lengths = np.concatenate([np.diff(offsets) for offsets, _ in tables])
    hashes = np.concatenate([hashes for _, hashes in tables])
    _write_tables(directory, lengths[rows], hashes[rows])


def _runs(rows: Rows, firsts: Rows) -> list[tuple[int, int]]:
    """[first, end) of each run of rows that follow each other within one part.

    `firsts` (parts + 1,): the first row of each part.
    """
    parts = np.searchsorted(firsts, rows, side="right")
    breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(parts) != 0)) + 1
    begins = np.concatenate(([0], breaks))
    ends = np.concatenate((breaks, [len(rows)])) - 1
    return [(int(rows[i]), int(rows[j]) + 1) for i, j in zip(begins, ends, strict=True)]


def _copy(source: Path, span: list[int], target: BinaryIO) -> None:
    with source.open("rb") as file:
        file.seek(span[0])
        left = span[1] - span[0]
        while left and (block := file.read(min(left, COPIED_BYTES))):
            left -= target.write(block)


def _read_tables(directory: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    return np.load(directory / OFFSETS), np.load(directory / HASHES)


def _write_tables(
    directory: Path, lengths: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint8]
) -> None:
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    np.save(directory / OFFSETS, offsets, allow_pickle=False)
    np.save(directory / HASHES, hashes, allow_pickle=False)


class Passages:
    """`passages[row]` reads one passage; nothing is held in memory but the mapping and offsets."""

    def __init__(self, blob: mmap.mmap, offsets: npt.NDArray[np.int64], hashes: Path) -> None:
        self._blob = blob
        self._offsets: list[int] = offsets.tolist()
        self._hashes = hashes

    @classmethod
    def load(cls, directory: Path) -> "Passages":
        """Raises IndexCorrupt."""
        try:
            offsets = np.load(directory / OFFSETS, allow_pickle=False)
            with (directory / RECORDS).open("rb") as file:
                blob = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError, EOFError) as exc:
            raise IndexCorrupt(f"{directory} holds no readable passages: {exc}") from exc
        if offsets.ndim != 1 or len(offsets) < 2 or offsets[-1] != len(blob):
            raise IndexCorrupt(f"{directory / OFFSETS} does not fit {RECORDS}")
        return cls(blob, offsets, directory / HASHES)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, row: int) -> Passage:
        try:
            return _decoder.decode(self.record(row))
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise IndexCorrupt(f"passage {row} is damaged: {exc}") from exc

    def record(self, row: int) -> bytes:
        """The passage as it lies on disk."""
        return self._blob[self._offsets[row] : self._offsets[row + 1]]

    def rows_by_hash(self) -> dict[bytes, int]:
        """Content hash → row, to take over vectors of texts that have not changed."""
        table = np.load(self._hashes, allow_pickle=False)
        return {table[row].tobytes(): row for row in range(len(table))}

    def close(self) -> None:
        self._blob.close()
