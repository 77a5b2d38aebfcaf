"""Values that pass between the stages, and the errors a caller can act on.

RetrievalError
├── IndexMissing       no index there yet
├── IndexCorrupt       files damaged, cut or gone
├── IndexMismatch      built for another embedding model or format
├── IndexBusy          another process is writing
├── NoDocuments        nothing readable among the paths to index
├── IndexUnwritable    disk full, no permission
├── ModelUnavailable   model not found, not safe to load, not the pinned one
├── DeviceUnavailable  no GPU, or no FAISS that can use it
├── QueueFull          more queries wait for the model than it may owe
└── NotReranked        no time for the reranker, or it failed; the order as found holds
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


PUBLIC = "public"
"""The tenant whose documents every tenant sees."""


class Document(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Not looked at by the garbage collector, whose rounds over 100,000 of them would stop the
    event loop for 0.1 s: metadata is what JSON can hold, so there are no cycles."""

    doc_id: str
    title: str
    text: str
    metadata: dict[str, object] = {}
    tenant: str = PUBLIC
    acl: tuple[str, ...] = ()
    """Groups of the tenant that may see it; empty: all."""


class Passage(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A cut of a document: `document.text[start:end] == text`."""

    passage_id: str
    doc_id: str
    title: str
    text: str
    start: int
    end: int
    metadata: dict[str, object] = {}
    gap: str | None = None
    """White space of the document between the passage before and this one; None when there is
    more than that, or no such passage."""
    tenant: str = PUBLIC
    acl: tuple[str, ...] = ()

    @property
    def indexed_text(self) -> str:
        """What is embedded and what BM25 sees."""
        return f"{self.title}\n{self.text}" if self.title else self.text


class Scores(msgspec.Struct, frozen=True):
    """`dense` is a cosine, `sparse` a BM25 score (None: no term in common)."""

    dense: float | None
    sparse: float | None
    fused: float
    rerank: float | None = None


class Hit(msgspec.Struct, frozen=True):
    passage: Passage
    rank: int
    scores: Scores


class TextEmbedder(Protocol):
    """The part of an embedder that building and searching need."""

    @property
    def model_id(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def tokenizer(self) -> Any: ...
    async def embed(self, query: str) -> Float32Array: ...
    def encode_queries(self, queries: Sequence[str]) -> Float32Array: ...
    def encode_passages(
        self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None
    ) -> Float32Array: ...


class TextReranker(Protocol):
    """The part of a reranker that searching needs."""

    async def scores(
        self, query: str, texts: Sequence[str], *, time_left_s: float | None = None
    ) -> Float32Array: ...


class RetrievalError(Exception):
    """Base of all errors of this package; the message says what to do."""


class IndexMissing(RetrievalError):
    pass


class IndexCorrupt(RetrievalError):
    pass


class IndexMismatch(RetrievalError):
    pass


class IndexBusy(RetrievalError):
    pass


class NoDocuments(RetrievalError):
    pass


class IndexUnwritable(RetrievalError):
    pass


class ModelUnavailable(RetrievalError):
    pass


class DeviceUnavailable(RetrievalError):
    pass


class QueueFull(RetrievalError):
    pass


class NotReranked(RetrievalError):
    pass
