"""Wire structs of documents and jobs, with the bounds of each field."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from api.http.schemas import Request
from retrieval.language.characters import UNPRINTABLE
from retrieval.library.jobs import Job, JobDocument, State
from retrieval.library.records import DocumentRecord, Origin

MOST_DOCUMENTS = 1_000
"""Of one JSON body."""
MOST_LINES = 10_000
MOST_FILES = 100
MOST_FIELDS = 64
METADATA_BYTES = 16_384
MOST_GROUPS = 32

DocId = Annotated[str, Meta(min_length=1, max_length=512)]
Group = Annotated[str, Meta(min_length=1, max_length=128)]
Groups = Annotated[list[Group], Meta(max_length=MOST_GROUPS)]


class DocumentIn(Request, frozen=True, kw_only=True):
    id: DocId | None = None
    """Taken from title and text where there is none: the same document again is the same id."""
    title: Annotated[str, Meta(max_length=512)] = ""
    text: Annotated[str, Meta(min_length=1)]
    metadata: dict[str, Any] = {}
    acl: Groups = []
    """Groups of the tenant that may see it; empty: all of them."""

    def __post_init__(self) -> None:
        if self.id is not None:
            check_id(self.id)
        if UNPRINTABLE.search(self.title):
            raise ValueError("title: Expected `str` without control characters")
        if not self.text.strip() or "\0" in self.text:
            raise ValueError("text: Expected `str` that is not blank, without zero bytes")
        check_metadata(self.metadata)


class DocumentsIn(Request, frozen=True, kw_only=True):
    documents: Annotated[list[DocumentIn], Meta(min_length=1, max_length=MOST_DOCUMENTS)]


class JobOut(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    state: State
    stage: str
    """wait, read (files), split, embed, write, build (in another process), end."""
    done: int
    """Of `total`, in this stage."""
    total: int
    documents: list[JobDocument]
    generation: str | None
    """That holds all of it."""
    created_at: str
    finished_at: str | None
    error: str | None
    """Why it failed, or has to wait: it is tried again."""

    @classmethod
    def of(cls, job: Job) -> "JobOut":
        return cls(
            id=job.id,
            state=job.state,
            stage=job.stage,
            done=job.done,
            total=job.total,
            documents=job.documents,
            generation=job.generation,
            created_at=shown_time(job.created_at),
            finished_at=None if job.finished_at is None else shown_time(job.finished_at),
            error=job.error,
        )


class JobResponse(msgspec.Struct, frozen=True):
    job: JobOut


class DocumentFacts(msgspec.Struct, frozen=True, kw_only=True):
    doc_id: str
    title: str
    metadata: dict[str, Any]
    acl: tuple[str, ...]
    chars: int
    origin: Origin
    """paths: `ragrelay index` brought it; api: POST /documents."""
    updated_at: str
    state: Literal["indexed", "pending"]
    """pending: no generation holds it as it is yet."""

    @classmethod
    def of(cls, kept: DocumentRecord, built: int, **more: Any) -> Any:
        return cls(
            doc_id=kept.doc_id,
            title=kept.title,
            metadata=kept.metadata,
            acl=kept.acl,
            chars=kept.chars,
            origin=kept.origin,
            updated_at=shown_time(kept.updated_at),
            state="indexed" if kept.seq <= built else "pending",
            **more,
        )


class DocumentOut(DocumentFacts, frozen=True, kw_only=True):
    text: str


class DocumentList(msgspec.Struct, frozen=True):
    documents: list[DocumentFacts]
    next: str | None
    """`after` of the next page; null on the last."""


class DocumentDeleted(msgspec.Struct, frozen=True):
    doc_id: str
    deleted: bool = True


def check_id(id: str) -> None:
    """Raises ValueError."""
    if UNPRINTABLE.search(id) or not id.strip():
        raise ValueError("id: Expected `str` that is not blank, without control characters")


def check_metadata(metadata: dict[str, Any]) -> None:
    """Raises ValueError."""
    if len(metadata) > MOST_FIELDS or len(msgspec.json.encode(metadata)) > METADATA_BYTES:
        raise ValueError(
            f"metadata: Expected at most {MOST_FIELDS} fields and {METADATA_BYTES:,} bytes as JSON"
        )


def shown_time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")
