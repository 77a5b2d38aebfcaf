"""An index on disk: generations that never change once written, and a pointer to the one in use.

DIR/CURRENT                    name of the generation that serves
DIR/generations/<id>/          manifest.json, dense.faiss, sparse/, passages, documents
DIR/tombstones.json            documents deleted since (tombstones)
DIR/.lock                      held by the one writer
"""

import hashlib
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from retrieval.index.dense import DenseIndex, DenseInfo
from retrieval.index.fields import DocumentTable, read_documents_table
from retrieval.index.passages import Passages
from retrieval.index.sparse import SparseIndex, SparseInfo
from retrieval.index.visibility import Visibility
from retrieval.types import IndexCorrupt, IndexMismatch, IndexMissing, TextEmbedder

FORMAT_VERSION = 3
POINTER = "CURRENT"
GENERATIONS = "generations"
MANIFEST = "manifest.json"
DENSE = "dense.faiss"
SPARSE = "sparse"
REBUILD = "rebuild it with: ragrelay index PATH…"

_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}")


class EmbeddingInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model that made the vectors; only its own query vectors may be compared with them."""

    model_id: str
    revision: str
    dim: int

    @classmethod
    def of(cls, embedder: TextEmbedder) -> "EmbeddingInfo":
        return cls(embedder.model_id, embedder.revision, embedder.dim)


class Counts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    documents: int
    passages: int
    skipped: int


class FileInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """manifest.json: what a generation was made from, and the sha256 of its files."""

    format_version: int
    id: str
    created_at: str
    embedding: EmbeddingInfo
    splitter: dict[str, object]
    dense: DenseInfo
    sparse: SparseInfo
    counts: Counts
    corpus_digest: str
    seq: int
    """Change of the library that it was built from; 0 where no library was asked."""
    files: dict[str, FileInfo]
    checksum: str = ""
    """sha256 of this manifest with an empty checksum: no other file covers this one."""

    def sealed(self) -> "Manifest":
        return msgspec.structs.replace(self, checksum=self._digest())

    def is_intact(self) -> bool:
        return self.checksum == self._digest()

    def _digest(self) -> str:
        blank = msgspec.structs.replace(self, checksum="")
        return hashlib.sha256(msgspec.json.encode(blank, order="deterministic")).hexdigest()


@dataclass(eq=False)
class Index:
    """One opened generation; may be read from any thread.

    Its parts have the same rows: vector n, postings of row n and passage n belong together.
    """

    directory: Path
    manifest: Manifest
    dense: DenseIndex
    sparse: SparseIndex
    passages: Passages
    documents: DocumentTable
    visibility: Visibility

    @property
    def hidden(self) -> frozenset[str]:
        """Documents whose passages no search returns."""
        return self.visibility.hidden

    @hidden.setter
    def hidden(self, doc_ids: Iterable[str]) -> None:
        self.visibility.hide(frozenset(doc_ids))

    @property
    def generation(self) -> str:
        return self.manifest.id

    def __len__(self) -> int:
        return len(self.passages)

    def require(self, embedder: TextEmbedder) -> None:
        """Raises IndexMismatch unless the passages were embedded by this very model."""
        built, given = self.manifest.embedding, EmbeddingInfo.of(embedder)
        if built != given:
            raise IndexMismatch(
                f"index {self.generation} was built with {_shown(built)}, but the embedding model"
                f" is {_shown(given)}; {REBUILD}"
            )

    def close(self) -> None:
        """Unmap the passages, once nothing searches them; one merely dropped does the same."""
        self.passages.close()


def open_index(
    index_dir: str | Path,
    *,
    embedder: TextEmbedder | None = None,
    verify: bool = True,
    device: str = "cpu",
) -> Index:
    """Open the current generation; `verify` reads every file once to check its sha256.

    `device` "cuda" has the dense side searched on the GPU. Raises IndexMissing, IndexCorrupt,
    IndexMismatch for another format or `embedder`, and DeviceUnavailable.
    """
    while True:
        generation = current_generation(index_dir)
        if generation is None:
            raise IndexMissing(
                f"no index in {index_dir}; build one with: ragrelay index PATH…",
            )
        try:
            index = open_generation(index_dir, generation, verify=verify, device=device)
        except IndexCorrupt:
            # Two builds may have replaced and pruned it between the two reads.
            if current_generation(index_dir) != generation:
                continue
            raise
        if embedder is not None:
            index.require(embedder)
        return index


def open_generation(
    index_dir: str | Path, generation: str, *, verify: bool = True, device: str = "cpu"
) -> Index:
    """As `open_index`, for a generation that need not be the current one."""
    directory = Path(index_dir) / GENERATIONS / generation
    manifest = read_manifest(index_dir, generation)
    check_files(directory, manifest, hashes=verify)
    documents = read_documents_table(directory, manifest.counts.passages)
    index = Index(
        directory=directory,
        manifest=manifest,
        dense=DenseIndex.load(directory / DENSE, device=device),
        sparse=SparseIndex.load(directory / SPARSE, manifest.sparse),
        passages=Passages.load(directory),
        documents=documents,
        visibility=Visibility(documents),
    )
    sizes = {len(index.dense), len(index.sparse), len(index.passages), manifest.counts.passages}
    if len(sizes) > 1 or index.dense.dim != manifest.embedding.dim:
        raise IndexCorrupt(f"the parts of {directory} do not belong together; {REBUILD}")
    return index


def current_generation(index_dir: str | Path) -> str | None:
    """Name of the generation that serves; one small read, made to be polled."""
    pointer = Path(index_dir) / POINTER
    try:
        name = pointer.read_bytes().decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise IndexCorrupt(f"cannot read {pointer}: {exc.strerror}") from exc
    if not _NAME.fullmatch(name):
        raise IndexCorrupt(f"{pointer} does not name a generation; {REBUILD}")
    return name


def list_generations(index_dir: str | Path) -> list[Manifest]:
    """Manifests of all readable generations, newest first."""
    generations = Path(index_dir) / GENERATIONS
    if not generations.is_dir():
        return []
    manifests = []
    for name in os.listdir(generations):
        if _NAME.fullmatch(name):
            try:
                manifests.append(read_manifest(index_dir, name))
            except (IndexCorrupt, IndexMismatch):
                continue
    return sorted(manifests, key=lambda manifest: manifest.created_at, reverse=True)


def read_manifest(index_dir: str | Path, generation: str) -> Manifest:
    """Raises IndexCorrupt, or IndexMismatch for another format."""
    path = Path(index_dir) / GENERATIONS / generation / MANIFEST
    try:
        raw = path.read_bytes()
        # The version first: a manifest of another format has other fields, which is no damage.
        version = msgspec.json.decode(raw, type=_Versioned).format_version
        if version != FORMAT_VERSION:
            raise IndexMismatch(
                f"{path.parent} has index format {version}, this version reads"
                f" {FORMAT_VERSION}; {REBUILD}"
            )
        manifest = msgspec.json.decode(raw, type=Manifest)
    except OSError as exc:
        raise IndexCorrupt(f"cannot read {path}: {exc.strerror}; {REBUILD}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise IndexCorrupt(f"{path} is damaged: {exc}; {REBUILD}") from exc
    if manifest.id != generation or not manifest.is_intact():
        raise IndexCorrupt(f"{path} is damaged: its checksum does not hold; {REBUILD}")
    return manifest


def check_files(directory: Path, manifest: Manifest, *, hashes: bool) -> None:
    """Raises IndexCorrupt when a file is gone, cut or (with `hashes`) changed."""
    for name, info in manifest.files.items():
        try:
            size = (directory / name).stat().st_size
        except OSError as exc:
            raise IndexCorrupt(f"{directory / name}: {exc.strerror}; {REBUILD}") from exc
        if size != info.bytes:
            raise IndexCorrupt(
                f"{directory / name} has {size} bytes, not the {info.bytes} written; {REBUILD}"
            )
    if not hashes:
        return
    with ThreadPoolExecutor() as pool:
        found = pool.map(file_info, (directory / name for name in manifest.files))
        for (name, info), now in zip(manifest.files.items(), found, strict=True):
            if now != info:
                raise IndexCorrupt(f"{directory / name} has changed since written; {REBUILD}")


def file_info(path: Path) -> FileInfo:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return FileInfo(bytes=file.tell(), sha256=digest)
    except OSError as exc:
        raise IndexCorrupt(f"cannot read {path}: {exc.strerror}; {REBUILD}") from exc


class _Versioned(msgspec.Struct):
    format_version: int


def _shown(info: EmbeddingInfo) -> str:
    return f"{info.model_id} (weights {info.revision}, {info.dim} dimensions)"
