"""Real English text by the hundred thousand passages, from Debian's documentation packages.

Fetched once into .venv/bench-data (out of git, gone with `make clean`), with vectors of the first
20,000 once they are embedded:

python -m bench.retrieval_texts
"""

import gzip
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.support import small_data
from bench.support.sizes import SMOKE
from retrieval.models.embedder import load_embedder
from retrieval.models.resolve import MINILM
from retrieval.types import Float32Array

FOLDER = Path(".venv/bench-data")
PACKAGES = ("linux-doc-6.1", "dict-gcide", "python3.11-doc", "manpages", "manpages-dev")
SOURCES = (
    "usr/share/doc/linux-doc-6.1/Documentation/**/*.rst.gz",
    "usr/share/doc/linux-doc-6.1/Documentation/**/*.rst",
    "usr/share/doc/linux-doc-6.1/Documentation/**/*.txt*",
    "usr/share/doc/python3.11/html/_sources/**/*.txt",
    "usr/share/man/man*/*.gz",
    "usr/share/dictd/gcide.dict.dz",
)
WINDOW = 100
N_REAL = 20_000
VECTORS = FOLDER / f"vectors-{N_REAL}.npy"

_markup = re.compile(r"\.\\\".*|^\.\w+|\\f.|[`*|{}\\=~^_]+", re.MULTILINE)


def real_texts(n: int) -> list[str]:
    """`n` texts of 100 words, shuffled with a fixed seed; fewer if Debian's mirror holds fewer.

    Raises OSError or CalledProcessError where there is no apt or no mirror.
    """
    if SMOKE:
        return list(small_data.windows())[:n]
    if not (FOLDER / "usr").exists():
        _fetch()
    texts = list(_windows())
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[place] for place in order[:n].tolist()]


def real_vectors() -> Float32Array | None:
    """(20,000, 384) of the first texts; None until they have been embedded."""
    return np.load(VECTORS) if VECTORS.exists() and not SMOKE else None


def derived_vectors(real: Float32Array, n: int) -> Float32Array:
    """Real ones as far as they go, then points between two of them with some noise: spread as
    real ones are, which is what search times depend on."""
    if n <= len(real):
        return real[:n]
    rng = np.random.default_rng(0)
    one, other = rng.integers(len(real), size=(2, n - len(real)))
    share = rng.random((n - len(real), 1), dtype=np.float32) * np.float32(0.7)
    noise = rng.standard_normal((n - len(real), real.shape[1]), dtype=np.float32)
    between = (1 - share) * real[one] + share * real[other] + np.float32(0.02) * noise
    between /= np.linalg.norm(between, axis=1, keepdims=True)
    return np.concatenate([real, between])


def _fetch() -> None:
    debs = FOLDER / "deb"
    debs.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "-q", *PACKAGES], cwd=debs, check=True)
    for deb in debs.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(deb), str(FOLDER)], check=True)


def _windows() -> Iterator[str]:
    for pattern in SOURCES:
        for path in sorted(FOLDER.glob(pattern)):
            if path.is_file():
                words = _markup.sub(" ", _read(path)).split()
                for start in range(0, len(words) - WINDOW // 2, WINDOW):
                    yield " ".join(words[start : start + WINDOW])


def _read(path: Path) -> str:
    raw = path.read_bytes()
    packed = path.suffix in (".gz", ".dz")
    return (gzip.decompress(raw) if packed else raw).decode("utf-8", "replace")


def main() -> None:
    texts = real_texts(N_REAL)
    embedder = load_embedder(MINILM, threads=1)
    started = time.monotonic()

    def say(done: int, total: int) -> None:
        if done % 1024 == 0:
            print(f"{done} of {total}, {time.monotonic() - started:.0f} s", flush=True)

    np.save(VECTORS, embedder.encode_passages(texts, progress=say))
    embedder.close()


if __name__ == "__main__":
    main()
