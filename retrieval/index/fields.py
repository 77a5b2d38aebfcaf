"""The documents of a generation and their metadata by value, from which a filter finds its rows.

Written at build time into <generation>/documents.msgpack. `filters` has the same rule for one
document; tests hold the two together.
"""

import bisect
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from retrieval.index.filters import LONGEST_FIELD, Condition, Filter, Values, View, filterable
from retrieval.types import PUBLIC, IndexCorrupt, Mask, Rows

DOCUMENTS = "documents.msgpack"
DIGEST_BYTES = 16

Documents = npt.NDArray[np.int32]
"""Numbers of documents, from 0 in row order."""


class Attributes(msgspec.Struct, frozen=True):
    """What filters can look at of a document."""

    doc_id: str
    metadata: dict[str, object] = {}
    tenant: str = PUBLIC
    acl: tuple[str, ...] = ()


class Column(msgspec.Struct, frozen=True):
    """Document numbers (int32) by value of one field, values ascending."""

    texts: list[str]
    text_starts: bytes
    """int64 (len(texts) + 1,): where the documents of each text begin."""
    text_documents: bytes
    numbers: bytes
    """float64, one for each of `number_documents`."""
    number_documents: bytes
    false_documents: bytes
    true_documents: bytes

    def within(self, values: Values) -> list[Documents]:
        """Documents that have one of the values."""
        found = [self._texts(*self._equal_texts(text)) for text in values.texts]
        ordered = _floats(self.numbers)
        for number in values.numbers:
            # From the number to the next float: its own span, in one search.
            first, end = np.searchsorted(ordered, [number, np.nextafter(number, np.inf)])
            found.append(self._numbers(int(first), int(end)))
        by_truth = (self.false_documents, self.true_documents)
        found += [_int32s(by_truth[truth]) for truth in values.truths]
        return found

    def beyond(self, condition: Condition) -> list[Documents]:
        """Documents that have a value on the condition's side of its bound."""
        is_upper = condition.operator in ("lte", "lt")
        after_equal = condition.operator in ("lte", "gt")
        found = []
        for text in condition.values.texts:
            at = (bisect.bisect_right if after_equal else bisect.bisect_left)(self.texts, text)
            found.append(self._texts(0, at) if is_upper else self._texts(at, len(self.texts)))
        ordered = _floats(self.numbers)
        for number in condition.values.numbers:
            at = int(np.searchsorted(ordered, number, side="right" if after_equal else "left"))
            found.append(self._numbers(0, at) if is_upper else self._numbers(at, len(ordered)))
        return found

    def _equal_texts(self, text: str) -> tuple[int, int]:
        at = bisect.bisect_left(self.texts, text)
        return at, at + (at < len(self.texts) and self.texts[at] == text)

    def _texts(self, first: int, end: int) -> Documents:
        starts = np.frombuffer(self.text_starts, dtype=np.int64)
        return _int32s(self.text_documents)[starts[first] : starts[end]]

    def _numbers(self, first: int, end: int) -> Documents:
        return _int32s(self.number_documents)[first:end]


class DocumentTable(msgspec.Struct, frozen=True, dict=True):
    """Documents in row order; the rows of document n are starts[n] to starts[n + 1]."""

    doc_ids: list[str]
    starts: bytes
    digests: bytes
    tenants: Column
    groups: Column
    fields: dict[str, Column]

    def __len__(self) -> int:
        return len(self.doc_ids)

    @cached_property
    def first_rows(self) -> Rows:
        """(documents + 1,): the first row of each document, and the number of rows."""
        return np.frombuffer(self.starts, dtype=np.int64)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """doc_id → document number"""
        return {doc_id: number for number, doc_id in enumerate(self.doc_ids)}

    def to_rows(self, documents: Mask) -> Mask:
        """A mask over documents as one over rows."""
        return np.repeat(documents, np.diff(self.first_rows))

    def admitted(self, view: View) -> Mask:
        """(documents,): which of them the view sees."""
        seen = np.ones(len(self), dtype=np.bool_)
        if view.tenant is not None:
            seen &= self._having(self.tenants, Values((view.tenant, PUBLIC)))
        if not view.all_groups:
            # A document without groups is for all of its tenant, and is in no group's list.
            restricted = self._marked(_int32s(self.groups.text_documents))
            seen &= ~restricted | self._having(self.groups, Values(view.groups))
        if view.filters is not None:
            seen &= self._meeting(view.filters)
        return seen

    def _meeting(self, part: Filter | Condition) -> Mask:
        if isinstance(part, Condition):
            return self._meeting_condition(part)
        met = np.full(len(self), part.connective == "and")
        combine = np.logical_and if part.connective == "and" else np.logical_or
        for inner in part.parts:
            combine(met, self._meeting(inner), out=met)
        return met

    def _meeting_condition(self, condition: Condition) -> Mask:
        column = self.fields.get(condition.field)
        if column is None:
            return np.full(len(self), condition.operator == "ne")
        if condition.operator == "in":
            return self._having(column, condition.values)
        if condition.operator == "ne":
            return ~self._having(column, condition.values)
        return self._marked(*column.beyond(condition))

    def _having(self, column: Column, values: Values) -> Mask:
        return self._marked(*column.within(values))

    def _marked(self, *documents: Documents) -> Mask:
        mask = np.zeros(len(self), dtype=np.bool_)
        for numbers in documents:
            mask[numbers] = True
        return mask


def write_documents(
    documents: Iterable[Attributes], counts: Rows, digests: bytes, directory: Path
) -> None:
    """Write the table: `counts` (documents,) passages of each, `digests` DIGEST_BYTES of each."""
    doc_ids: list[str] = []
    tenants, groups = _ColumnDraft(), _ColumnDraft()
    fields: dict[str, _ColumnDraft] = {}
    for number, document in enumerate(documents):
        doc_ids.append(document.doc_id)
        tenants.add(number, Values((document.tenant,)))
        if document.acl:
            groups.add(number, Values(tuple(set(document.acl))))
        for field, value in document.metadata.items():
            if len(field) <= LONGEST_FIELD and (values := filterable(field, value)):
                fields.setdefault(field, _ColumnDraft()).add(number, values)
    table = DocumentTable(
        doc_ids,
        np.concatenate(([0], np.cumsum(counts))).astype(np.int64).tobytes(),
        digests,
        tenants.column(),
        groups.column(),
        {field: fields[field].column() for field in sorted(fields)},
    )
    (directory / DOCUMENTS).write_bytes(msgspec.msgpack.encode(table))


def read_documents_table(directory: Path, n_rows: int) -> DocumentTable:
    """Raises IndexCorrupt unless it is of `n_rows` rows."""
    path = directory / DOCUMENTS
    try:
        table = msgspec.msgpack.decode(path.read_bytes(), type=DocumentTable)
        fits = (
            len(table.first_rows) == len(table) + 1
            and len(table.digests) == DIGEST_BYTES * len(table)
            and int(table.first_rows[-1]) == n_rows
        )
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, ValueError) as exc:
        raise IndexCorrupt(f"{path} is not readable: {exc}") from exc
    if not fits:
        raise IndexCorrupt(f"{path} is not of {n_rows} passages")
    return table


class _ColumnDraft:
    def __init__(self) -> None:
        self._texts: dict[str, list[int]] = {}
        self._numbers: list[tuple[float, int]] = []
        self._truths: tuple[list[int], list[int]] = ([], [])

    def add(self, document: int, values: Values) -> None:
        for text in values.texts:
            self._texts.setdefault(text, []).append(document)
        self._numbers.extend((number, document) for number in values.numbers)
        for truth in values.truths:
            self._truths[truth].append(document)

    def column(self) -> Column:
        texts = sorted(self._texts)
        postings = [self._texts[text] for text in texts]
        starts = np.cumsum([0, *map(len, postings)], dtype=np.int64)
        self._numbers.sort()
        return Column(
            texts,
            starts.tobytes(),
            _packed([document for posting in postings for document in posting]),
            np.array([number for number, _ in self._numbers], dtype=np.float64).tobytes(),
            _packed([document for _, document in self._numbers]),
            *map(_packed, self._truths),
        )


def _packed(documents: list[int]) -> bytes:
    return np.array(documents, dtype=np.int32).tobytes()


def _int32s(raw: bytes) -> Documents:
    return np.frombuffer(raw, dtype=np.int32)


def _floats(raw: bytes) -> npt.NDArray[np.float64]:
    return np.frombuffer(raw, dtype=np.float64)
