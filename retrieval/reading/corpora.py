"""Read corpora in JSON: records of id, title, text and metadata, or SQuAD's articles."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from retrieval.reading.bounded import Unreadable, decode, read_bytes, read_lines
from retrieval.types import Document


class SquadAnswer(msgspec.Struct):
    text: str
    answer_start: int | None = None
    """In characters of the paragraph; None where the file does not say."""


class SquadQuestion(msgspec.Struct):
    id: str
    question: str
    answers: list[SquadAnswer] = []


class SquadParagraph(msgspec.Struct):
    context: str
    qas: list[SquadQuestion] = []


class SquadArticle(msgspec.Struct):
    paragraphs: list[SquadParagraph]
    title: str = ""


class Squad(msgspec.Struct):
    data: list[SquadArticle]

    def paragraphs(self) -> Iterator[tuple[str, str, SquadParagraph]]:
        """(doc_id, title, paragraph): doc_id is `<title>#<number of the paragraph, from 0>`."""
        for article in self.data:
            title = article.title.replace("_", " ")
            for number, paragraph in enumerate(article.paragraphs):
                yield f"{article.title}#{number}", title, paragraph


def read_squad(path: Path) -> Squad:
    """Read a file in SQuAD's JSON, .gz or not. Raises Unreadable."""
    try:
        return msgspec.json.decode(read_bytes(path), type=Squad)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Unreadable(f"not SQuAD JSON: {exc}") from None


def corpus_lines(path: Path) -> Iterator[Document | str]:
    """Yield the document of each line of a .jsonl file, or why the line has none."""
    empty = True
    for number, line in read_lines(path):
        if not line.strip():
            continue
        empty = False
        try:
            yield _document(_parse(line))
        except Unreadable as exc:
            yield f"line {number}: {exc}"
    if empty:
        raise Unreadable("empty")


def corpus_or_squad(path: Path) -> Iterator[Document | str]:
    """Yield the documents of a .json file: SQuAD, a list of records or a single record.

    A string says why a record has none. Raises Unreadable where the whole file is of no use.
    """
    raw = read_bytes(path)
    if not raw.strip():
        raise Unreadable("empty")
    whole = _parse(raw)
    if isinstance(whole, dict) and "data" in whole:
        for doc_id, title, paragraph in _as_squad(whole).paragraphs():
            if paragraph.context.strip():
                yield Document(doc_id=doc_id, title=title, text=paragraph.context)
            else:
                yield f"{doc_id}: empty"
        return
    records = whole if isinstance(whole, list) else [whole]
    if not records:
        raise Unreadable("empty")
    for number, record in enumerate(records, start=1):
        try:
            yield _document(record)
        except Unreadable as exc:
            yield f"record {number}: {exc}"


def _as_squad(whole: object) -> Squad:
    try:
        return msgspec.convert(whole, Squad)
    except msgspec.ValidationError as exc:
        raise Unreadable(f'has "data" but is not SQuAD JSON: {exc}') from None


def _parse(raw: bytes) -> object:
    text = decode(raw)
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as exc:
        raise Unreadable(f"malformed JSON: {exc}") from None


def _document(record: object) -> Document:
    if not isinstance(record, dict):
        raise Unreadable("not an object with id and text")
    metadata = dict(record)
    doc_id = metadata.pop("id", None)
    alternative = metadata.pop("_id", None)
    doc_id = alternative if doc_id is None else doc_id
    title, text = metadata.pop("title", None), metadata.pop("text", None)
    if isinstance(doc_id, bool) or not isinstance(doc_id, str | int) or doc_id == "":
        raise Unreadable("no id")
    if not isinstance(text, str):
        raise Unreadable("no text")
    if not text.strip():
        raise Unreadable("empty")
    if title is not None and not isinstance(title, str):
        raise Unreadable("title is not a string")
    return Document(doc_id=str(doc_id), title=title or "", text=text, metadata=metadata)
