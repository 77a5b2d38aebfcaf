"""Passages to cite, and an answer cited whole."""

import msgspec

from api.citations.citer import Citer
from api.citations.types import Citation


class Page(msgspec.Struct, frozen=True):
    n: int
    text: str
    title: str = ""
    start: int = 0

    @property
    def doc_id(self) -> str:
        return f"d{self.n}"

    @property
    def passage_id(self) -> str:
        return f"d{self.n}:0"


PERU = Page(
    1,
    "Lima is the capital of Peru. It was founded by Francisco Pizarro in 1535. The city does not "
    "lie in the Andes. About 10 million people live there.",
    "Peru",
)
FRANCE = Page(
    2,
    "Paris is the capital of France. It lies on the Seine. The Eiffel Tower was built in 1889.",
    "France",
    start=100,
)
PAGES = [PERU, FRANCE]


def cite(answer: str, question: str = "", sources: list[Page] = PAGES) -> list[Citation]:
    citer = Citer(question, sources)
    return [*citer.feed(answer), *citer.finish()]


def quotes(citation: Citation, sources: list[Page] = PAGES) -> list[str]:
    """The text that each span of a citation cuts from its document."""
    pages = {page.n: page for page in sources}
    return [
        pages[span.n].text[span.start - pages[span.n].start : span.end - pages[span.n].start]
        for span in citation.sources
    ]
