"""Read a body of documents, in one of three forms, and check its bounds.

`application/json` and `application/x-ndjson` hold documents, `multipart/form-data` files that are
read later (`retrieval.library.uploads`). Nothing here waits or touches the disk: it runs in a
thread.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from multipart import (  # type: ignore[import-untyped]
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

from api.errors import Invalid, Malformed, TooLarge, UnsupportedMediaType
from api.http.body import decode
from api.http.document_schemas import (
    MOST_FILES,
    MOST_GROUPS,
    MOST_LINES,
    DocumentIn,
    DocumentsIn,
    Group,
    check_id,
    check_metadata,
)
from retrieval.library.files import File
from retrieval.library.uploads import suffix_of
from retrieval.types import Document

FIELD_BYTES = 65_536
"""Of `metadata` and of `acl` in a form."""


class Handed(msgspec.Struct, frozen=True):
    """What came in one body; the documents have no tenant yet."""

    documents: list[Document] = []
    files: list[File] = []


def read_body(content_type: str, body: bytes) -> Handed:
    """Raises Malformed, Invalid, TooLarge or UnsupportedMediaType."""
    kind, options = parse_options_header(content_type)
    reader = _READERS.get(kind)
    if reader is None:
        raise UnsupportedMediaType(f"Content-Type must be one of {', '.join(_READERS)}")
    handed = reader(body, options)
    _refuse_repeated(handed)
    return handed


def _json(body: bytes, options: Mapping[str, str]) -> Handed:
    return Handed([_document(one) for one in decode(body, DocumentsIn).documents])


def _lines(body: bytes, options: Mapping[str, str]) -> Handed:
    lines = [(n, line) for n, line in enumerate(body.split(b"\n"), 1) if line.strip()]
    if not 1 <= len(lines) <= MOST_LINES:
        raise Invalid(f"expected 1 to {MOST_LINES:,} lines with a document each")
    return Handed([_document(_line(n, line)) for n, line in lines])


def _line(n: int, line: bytes) -> DocumentIn:
    try:
        document: DocumentIn = decode(line, DocumentIn)
    except (Invalid, Malformed) as exc:
        raise type(exc)(f"line {n}: {exc.message}") from exc
    return document


def _document(one: DocumentIn) -> Document:
    return Document(
        doc_id=one.id or _derived_id(one),
        title=one.title,
        text=one.text,
        metadata=one.metadata,
        acl=tuple(one.acl),
    )


def _derived_id(one: DocumentIn) -> str:
    return "doc-" + hashlib.sha256(f"{one.title}\0{one.text}".encode()).hexdigest()[:24]


def _form(body: bytes, options: Mapping[str, str]) -> Handed:
    try:
        parts = _parts(body, options.get("boundary", ""))
    except MultipartError as exc:
        raise Malformed("the body is not a whole multipart/form-data") from exc
    fields: dict[str, bytes] = {}
    named: list[tuple[str, bytes]] = []
    for part, content in parts:
        if part.name == "files" and part.filename:
            named.append((_checked_name(part.filename), content))
        elif part.name in ("metadata", "acl") and part.name not in fields:
            fields[part.name] = content
        else:
            raise Invalid("a form has `files` with names, and once `metadata` and `acl`")
    if not 1 <= len(named) <= MOST_FILES:
        raise Invalid(f"files: expected 1 to {MOST_FILES}")
    metadata, acl = _field(fields, "metadata", dict[str, Any]), _field(fields, "acl", list[Group])
    try:
        check_metadata(metadata)
    except ValueError as exc:
        raise Invalid(str(exc)) from exc
    if len(acl) > MOST_GROUPS:
        raise Invalid(f"acl: expected at most {MOST_GROUPS} groups")
    return Handed(
        files=[
            File(name=name, content=content, metadata=metadata, acl=tuple(acl))
            for name, content in named
        ]
    )


def _parts(body: bytes, boundary: str) -> list[tuple[MultipartSegment, bytes]]:
    """Parts of a form with their content. Raises MultipartError, and TooLarge for a long field."""
    parts: list[tuple[MultipartSegment, bytes]] = []
    with PushMultipartParser(boundary, max_segment_count=MOST_FILES + 2, strict=True) as parser:
        chunks: list[bytes] = []
        for event in parser.parse(body):
            if isinstance(event, MultipartSegment):
                parts.append((event, b""))
                chunks = []
            elif event is not None:
                chunks.append(bytes(event))
            else:
                part = parts[-1][0]
                if not part.filename and part.size > FIELD_BYTES:
                    raise TooLarge(f"a field of the form has more than {FIELD_BYTES:,} bytes")
                parts[-1] = (part, b"".join(chunks))
    return parts


def _field(fields: Mapping[str, bytes], name: str, cls: Any) -> Any:
    if name not in fields:
        return cls()
    try:
        return decode(fields[name], cls)
    except (Invalid, Malformed) as exc:
        raise type(exc)(f"{name}: {exc.message}") from exc


def _checked_name(name: str) -> str:
    """The name of a file as its document's id: a path stays one, from the root of nowhere."""
    name = "/".join(
        part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")
    )
    try:
        check_id(name)
    except ValueError as exc:
        raise Invalid("files: a name is blank or has control characters") from exc
    if len(name) > 512:
        raise Invalid("files: a name has more than 512 characters")
    try:
        suffix_of(name)
    except ValueError as exc:
        raise UnsupportedMediaType(f"{name}: {exc}") from exc
    return name


def _refuse_repeated(handed: Handed) -> None:
    seen: set[str] = set()
    for id in [one.doc_id for one in handed.documents] + [file.name for file in handed.files]:
        if id in seen:
            raise Invalid(f"id: {ascii(id)[:80]} is given twice")
        seen.add(id)


_READERS: dict[str, Callable[[bytes, Mapping[str, str]], Handed]] = {
    "application/json": _json,
    "application/x-ndjson": _lines,
    "multipart/form-data": _form,
}
