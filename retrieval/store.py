"""Passages on disk: one blob of msgpack records, their offsets, and a hash of each text."""

import hashlib
import mmap
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from retrieval.types import IndexCorrupt, Passage

RECORDS = "passages.msgpack"
OFFSETS = "offsets.npy"
HASHES = "hashes.npy"
HASH_BYTES = 16

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Passage)


def content_hash(indexed_text: str) -> bytes:
    return hashlib.sha256(indexed_text.encode()).digest()[:HASH_BYTES]


def write_store(passages: Sequence[Passage], directory: Path) -> None:
    offsets = np.zeros(len(passages) + 1, dtype=np.int64)
    with (directory / RECORDS).open("wb") as blob:
        for row, passage in enumerate(passages):
            offsets[row + 1] = offsets[row] + blob.write(_encoder.encode(passage))
    np.save(directory / OFFSETS, offsets, allow_pickle=False)
    hashes = b"".join(content_hash(passage.indexed_text) for passage in passages)
    table = np.frombuffer(hashes, dtype=np.uint8).reshape(-1, HASH_BYTES)
    np.save(directory / HASHES, table, allow_pickle=False)


class PassageStore:
    """`store[row]` reads one passage; nothing is held in memory but the mapping."""

    def __init__(self, blob: mmap.mmap, offsets: npt.NDArray[np.int64], hashes: Path) -> None:
        self._blob = blob
        self._offsets: list[int] = offsets.tolist()
        self._hashes = hashes

    @classmethod
    def load(cls, directory: Path) -> "PassageStore":
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
        record = self._blob[self._offsets[row] : self._offsets[row + 1]]
        try:
            return _decoder.decode(record)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise IndexCorrupt(f"passage {row} is damaged: {exc}") from exc

    def rows_by_hash(self) -> dict[bytes, int]:
        """Content hash → row, to take over vectors of texts that have not changed."""
        table = np.load(self._hashes, allow_pickle=False)
        return {table[row].tobytes(): row for row in range(len(table))}

    def close(self) -> None:
        self._blob.close()
