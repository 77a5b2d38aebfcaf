"""Split documents at headings and sentences into passages that fit the embedding model whole."""

import re
from collections.abc import Iterator, Sequence

from semantic_text_splitter import MarkdownSplitter, TextSplitter
from tokenizers import Tokenizer

from retrieval.reading.formats import STRUCTURED
from retrieval.reading.markdown import Outline
from retrieval.types import Document, Passage

MAX_TOKENS = 200
OVERLAP = 32
TITLE_TOKENS = 48
"""Of a title that counts; a longer one is cut where it is indexed with a passage."""
CHARS_PER_TOKEN = 16
"""A tokenizer makes one [UNK] of a megabyte without a space; English has 4 to 5 a token."""
BLOCK_CHARS = 50_000
"""Texts are split block by block: the splitter's time grows faster than the text it is given."""
_VOID = re.compile(r"\s{64,}")
"""Ends a block too: the splitter takes 3 s for 5,000 lines of one space each."""


class Splitter:
    """Cuts of up to `max_tokens` tokens, neighbours sharing up to `overlap` of them."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int = MAX_TOKENS,
        overlap: int = OVERLAP,
        *,
        limit: int = 256,
    ) -> None:
        """`limit` is the embedding model's: title, passage and special tokens stay within it."""
        room = limit - tokenizer.num_special_tokens_to_add(False) - TITLE_TOKENS
        if room < 1:
            raise ValueError(f"a model of {limit} tokens leaves no room for passages")
        self.max_tokens = min(max_tokens, room)
        self.overlap = min(overlap, self.max_tokens // 2)
        self.limit = limit
        self._tokenizer = tokenizer
        self._text = TextSplitter.from_huggingface_tokenizer(
            tokenizer, self.max_tokens, overlap=self.overlap
        )
        self._markdown = MarkdownSplitter.from_huggingface_tokenizer(
            tokenizer, self.max_tokens, overlap=self.overlap
        )

    @property
    def params(self) -> dict[str, object]:
        return {"max_tokens": self.max_tokens, "overlap": self.overlap, "limit": self.limit}

    def split(self, document: Document) -> list[Passage]:
        """At least one passage of any document that has text, in order.

        A document up to a quarter over `max_tokens` stays whole: two cuts of it would know less.
        """
        title = self._cut_title(document.title)
        if self._fits_whole(title, document.text):
            return [_passage(document, 0, title, (0, len(document.text)))]
        if not document.doc_id.lower().endswith(STRUCTURED):
            spans = self._text_spans(document.text)
            return [_passage(document, n, title, span) for n, span in enumerate(spans)]
        outline = Outline(document.text)
        return [
            _passage(document, n, self._section_title(title, outline.path_at(span[0])), span)
            for n, span in enumerate(self._markdown_spans(document.text, outline))
        ]

    def _fits_whole(self, title: str, text: str) -> bool:
        whole = min(self.max_tokens + self.max_tokens // 4, self.limit)
        if len(text) > whole * CHARS_PER_TOKEN:
            return False
        return len(self._tokenizer.encode(f"{title}\n{text}")) <= whole

    def _text_spans(self, text: str) -> Iterator[tuple[int, int]]:
        for offset, block in _blocks(text):
            for start, chunk in self._text.chunk_indices(block):
                yield from self._short(offset + start, offset + start + len(chunk))

    def _markdown_spans(self, text: str, outline: Outline) -> Iterator[tuple[int, int]]:
        for offset, block in _blocks(text):
            # Rows without their header would be a paragraph, cut anywhere.
            table = outline.table_at(offset)
            head = table.head if table else ""
            for start, chunk in self._markdown.chunk_indices(head + block):
                before = offset - len(head)
                first, end = max(before + start, offset), before + start + len(chunk)
                yield from self._short(first, end)

    def _short(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        longest = self.max_tokens * CHARS_PER_TOKEN
        for first in range(start, end, longest):
            yield first, min(first + longest, end)

    def _section_title(self, title: str, path: Sequence[str]) -> str:
        """ "Document > Section > Subsection"; the document's own heading is not repeated."""
        inner = path[1:] if path and title.startswith(path[0]) else path
        return self._cut_title(" > ".join([title, *inner] if title else inner))

    def _cut_title(self, title: str) -> str:
        if len(title) < TITLE_TOKENS:
            return title
        title = title[: TITLE_TOKENS * CHARS_PER_TOKEN]
        offsets = self._tokenizer.encode(title, add_special_tokens=False).offsets
        return title if len(offsets) <= TITLE_TOKENS else title[: offsets[TITLE_TOKENS - 1][1]]


def _passage(document: Document, number: int, title: str, span: tuple[int, int]) -> Passage:
    start, end = span
    return Passage(
        passage_id=f"{document.doc_id}:{number}",
        doc_id=document.doc_id,
        title=title,
        text=document.text[start:end],
        start=start,
        end=end,
        metadata=document.metadata,
        tenant=document.tenant,
        acl=document.acl,
    )


def _blocks(text: str) -> Iterator[tuple[int, str]]:
    """(offset, block) of the text between long runs of white space."""
    start = 0
    for void in _VOID.finditer(text):
        yield from _bounded(text, start, void.start())
        start = void.end()
    yield from _bounded(text, start, len(text))


def _bounded(text: str, start: int, stop: int) -> Iterator[tuple[int, str]]:
    """Blocks cut at the last blank line, line or word of each if there is one."""
    while stop - start > BLOCK_CHARS:
        end = start + BLOCK_CHARS
        for boundary in ("\n\n", "\n", " "):
            cut = text.rfind(boundary, start + BLOCK_CHARS // 2, end)
            if cut >= 0:
                end = cut + len(boundary)
                break
        yield start, text[start:end]
        start = end
    if start < stop:
        yield start, text[start:stop]
