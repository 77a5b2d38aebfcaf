"""Nearest-neighbour search over the question embeddings of one partition, exact and in memory.

A small index is one matrix product. A large one compares sign signatures first: a random
rotation, the sign of each coordinate as a bit. Two unit vectors at angle θ differ in each bit
with probability θ/π, so a pair above the threshold differs in few bits and hardly any other does;
what is left is scored exactly. (M. Charikar, Similarity Estimation Techniques from Rounding
Algorithms, 2002, https://doi.org/10.1145/509907.509965)
"""

import math
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from retrieval.types import Float32Array

SMALL = 2048
"""Rows up to which the plain product is as fast."""
_SLACK = 32
"""Growth is by one part in this many: the arrays grow in place, so little is copied for it."""
_MIN_BITS = 256
_SIGMAS = 6.0
_SEED = 7


class Near(NamedTuple):
    id: str
    similarity: float


class SemanticIndex:
    """Ids by unit vectors (dim,); slots are reused, a slot costs memory once it is needed."""

    def __init__(self, dim: int, *, small: int = SMALL) -> None:
        self.dim = dim
        self._small = small
        self._ids: list[str | None] = []
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._vectors: npt.NDArray[np.float32 | np.float16] = np.zeros((0, dim), np.float32)
        self._expires = np.zeros(0, np.float64)
        self._signatures: _Signatures | None = None

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, id: str) -> bool:
        return id in self._slots

    @property
    def size_bytes(self) -> int:
        signatures = self._signatures.size_bytes if self._signatures else 0
        return self._vectors.nbytes + self._expires.nbytes + signatures

    @property
    def used_bytes(self) -> int:
        """The part of `size_bytes` that entries fill."""
        return self.size_bytes // max(1, len(self._expires)) * len(self)

    def add(self, id: str, embedding: Float32Array, expires_at: float) -> None:
        """Add or replace."""
        self.remove(id)
        if self._free:
            slot = self._free.pop()
        else:
            slot = len(self._ids)
            self._ids.append(None)
            if slot == len(self._expires):
                self._grow()
        # Both modes hold what float16 can, as Redis does: a switch changes no score.
        self._vectors[slot] = embedding.astype(np.float16)
        self._expires[slot] = expires_at
        self._ids[slot] = id
        self._slots[id] = slot
        if self._signatures is not None:
            self._signatures.put(slot, self._vectors[slot].astype(np.float32))

    def remove(self, id: str) -> None:
        slot = self._slots.pop(id, None)
        if slot is not None:
            self._ids[slot] = None
            self._vectors[slot] = 0  # a cosine of 0 is under every threshold
            self._free.append(slot)

    def vector(self, id: str) -> Float32Array | None:
        """The embedding of an id, as float16 holds it."""
        slot = self._slots.get(id)
        return None if slot is None else self._vectors[slot].astype(np.float32)

    def search(
        self, embedding: Float32Array, threshold: float, now: float, *, k: int = 5
    ) -> list[Near]:
        """The k nearest at or above `threshold` that have not expired, nearest first."""
        n = len(self._ids)
        if self._signatures is None:
            similarities = self._vectors[:n] @ embedding
            slots = np.flatnonzero(similarities >= threshold)
            similarities = similarities[slots]
        else:
            slots = self._signatures.near(embedding, threshold, n)
            similarities = self._vectors[slots].astype(np.float32) @ embedding
            is_near = similarities >= threshold
            slots, similarities = slots[is_near], similarities[is_near]
        if not len(slots):
            return []
        is_live = self._expires[slots] > now
        slots, similarities = slots[is_live], similarities[is_live]
        nearest = np.argsort(-similarities, kind="stable")
        found = ((self._ids[slots[at]], float(similarities[at])) for at in nearest)
        live = (Near(id, similarity) for id, similarity in found if id is not None)
        return list(islice(live, k))

    def _grow(self) -> None:
        n = len(self._expires)
        rows = n + n // _SLACK + 1
        if self._signatures is None and rows > self._small:
            self._signatures = _Signatures(self.dim)
            self._signatures.grow(n)
            self._signatures.put_all(self._vectors.astype(np.float32, copy=False))
            self._vectors = self._vectors.astype(np.float16)
        # In place: doubling 50 MB into a new array stops the event loop for 0.1 s, this for 5 ms.
        # No view of the arrays outlives a call.
        self._vectors.resize((rows, self.dim), refcheck=False)
        self._expires.resize(rows, refcheck=False)
        if self._signatures is not None:
            self._signatures.grow(rows)


class _Signatures:
    """Bits by 64-bit word (words, rows): one word of all rows lies together."""

    def __init__(self, dim: int) -> None:
        self._rotation = _rotation(dim)
        self._n_words = self._rotation.shape[1] // 64
        # 192 bits sum to less than 256, so a byte counts them, and they drop nearly all rows.
        self._first = min(3, self._n_words)
        self._bits = np.zeros((self._n_words, 0), np.uint64)

    @property
    def size_bytes(self) -> int:
        scratch = self._xor.nbytes + self._count.nbytes + self._distance.nbytes
        return self._bits.nbytes + scratch

    def put(self, row: int, vector: Float32Array) -> None:
        self._bits[:, row] = self._sign(vector[None])[:, 0]

    def put_all(self, vectors: Float32Array) -> None:
        for start in range(0, len(vectors), 1024):
            part = vectors[start : start + 1024]
            self._bits[:, start : start + len(part)] = self._sign(part)

    def grow(self, rows: int) -> None:
        more = np.zeros((self._n_words, rows - self._bits.shape[1]), np.uint64)
        self._bits = np.concatenate([self._bits, more], axis=1)
        # Scratch that a lookup fills: fresh pages would cost more than the counting.
        self._xor = np.empty(rows, np.uint64)
        self._count = np.empty(rows, np.uint8)
        self._distance = np.empty(rows, np.uint8)

    def near(self, vector: Float32Array, threshold: float, n: int) -> npt.NDArray[np.intp]:
        """Rows that may be at or above `threshold`, first by some bits, then by all."""
        bits = self._sign(vector[None])[:, 0]
        distance, count, xor = self._distance[:n], self._count[:n], self._xor[:n]
        np.bitwise_xor(self._bits[0, :n], bits[0], out=xor)
        np.bitwise_count(xor, out=distance)
        for word in range(1, self._first):
            np.bitwise_xor(self._bits[word, :n], bits[word], out=xor)
            np.bitwise_count(xor, out=count)
            np.add(distance, count, out=distance)
        rows = np.flatnonzero(distance <= _limit(threshold, 64 * self._first))
        if self._n_words == self._first or not len(rows):
            return rows
        rest = np.bitwise_count(self._bits[self._first :, rows] ^ bits[self._first :, None])
        all_bits = distance[rows] + rest.sum(axis=0, dtype=np.int64)
        kept: npt.NDArray[np.intp] = rows[all_bits <= _limit(threshold, 64 * self._n_words)]
        return kept

    def _sign(self, vectors: Float32Array) -> npt.NDArray[np.uint64]:
        """(words, rows) of vectors (rows, dim)."""
        packed = np.packbits(vectors @ self._rotation > 0, axis=1)
        return np.ascontiguousarray(packed).view(np.uint64).T


@lru_cache(maxsize=256)
def _limit(threshold: float, bits: int) -> int:
    """Bits in which a pair at `threshold` differs, six standard deviations beyond the mean."""
    p = math.acos(max(-1.0, min(1.0, threshold))) / math.pi
    return math.ceil(bits * p + _SIGMAS * math.sqrt(bits * p * (1 - p))) + 1


@lru_cache(maxsize=4)
def _rotation(dim: int) -> Float32Array:
    """(dim, bits): columns of random rotations, as many as give a multiple of 64 bits."""
    bits = max(_MIN_BITS, 64 * math.ceil(dim / 64))
    generator = np.random.default_rng(_SEED)
    turns = math.ceil(bits / dim)
    rotations = [np.linalg.qr(generator.standard_normal((dim, dim)))[0] for _ in range(turns)]
    return np.ascontiguousarray(np.concatenate(rotations, axis=1)[:, :bits], dtype=np.float32)
