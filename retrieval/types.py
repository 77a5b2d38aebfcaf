"""Documents, passages and hits, what a model must offer, and the errors of retrieval.

Every room of the package imports this module, so it imports none of them.

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
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
"""Numbers of passages in one index, from 0."""
Mask = npt.NDArray[np.bool_]
Language = Literal[
    "none", "danish", "dutch", "english", "french", "german", "italian", "norwegian",
    "portuguese", "russian", "spanish", "swedish", "turkish",
]  # fmt: skip
"""Of an index, for stems and stop words; `none` neither stems nor drops a word."""
Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total); total is 0 where it is not known."""


def ignore_progress(stage: str, done: int, total: int) -> None:
    """Do nothing: the Progress of a caller that wants to hear of none."""


PUBLIC = "public"
"""The tenant whose documents every tenant sees."""


class Document(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One text to be searched, with who may see it.

    gc=False: the collector's rounds over 100,000 of them would stop the event loop for 0.1 s;
    metadata is what JSON can hold, so there are no cycles to find.
    """

    doc_id: str
    title: str
    text: str
    metadata: dict[str, object] = {}
    tenant: str = PUBLIC
    acl: tuple[str, ...] = ()
    """Groups of the tenant that may see it; empty: all."""


class Passage(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A part of a document that is searched by itself: `document.text[start:end] == text`."""

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
    """Why a passage was found: `dense` is a cosine, `sparse` BM25's score (None: no common term).

    `fused` orders the ranking; `rerank` is the cross-encoder's score where one read the passage.
    """

    dense: float | None
    sparse: float | None
    fused: float
    rerank: float | None = None


class Hit(msgspec.Struct, frozen=True):
    """A passage that a search found."""

    passage: Passage
    rank: int
    """From 1, best first."""
    scores: Scores


class TextEmbedder(Protocol):
    """What building and searching need of an embedding model; `models.embedder` has one.

    A protocol, so that neither imports torch, and tests give fixed vectors.
    """

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
    async def embed(self, query: str) -> Float32Array:
        """(dim,), of unit L2 norm."""
        ...

    def encode_queries(self, queries: Sequence[str]) -> Float32Array:
        """(n, dim); blocking."""
        ...

    def encode_passages(
        self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None
    ) -> Float32Array:
        """(n, dim); blocking. `progress` is called with (done, total)."""
        ...


class TextReranker(Protocol):
    """What searching needs of a reranker; `models.reranker` has one."""

    async def scores(
        self, query: str, texts: Sequence[str], *, time_left_s: float | None = None
    ) -> Float32Array:
        """(n,), higher is more relevant. Raises NotReranked."""
        ...


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
