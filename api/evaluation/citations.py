"""Precision and recall of citations, on SQuAD's answers and on answers made to mislead.

Each question gets the paragraph it was asked about and the likeliest others as its sources. What
is cited for a right answer must hold the place of the answer (precision, recall); answers without
ground in the sources must not be cited at all.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import bm25s
import msgspec
import numpy as np

from api.citations.citer import Citer
from api.citations.types import Citation
from retrieval.evaluation.metrics import Figure, bootstrap
from retrieval.reading.bounded import Unreadable
from retrieval.reading.corpora import SquadQuestion, read_squad

N_SOURCES = 3
SEED = 7
_ASKS = re.compile(
    r"\b(?:(?:what|which) (?:type|kind|percentage|number) of \w+|(?:what|which) year"
    r"|how (?:many|much|long|far|old|often)|who(?:se|m)?|what|which|when|where|why|how)\b",
    re.IGNORECASE,
)


class Page(msgspec.Struct, frozen=True):
    """A paragraph as a source: a document of one passage."""

    n: int
    doc_id: str
    title: str
    text: str
    start: int = 0

    @property
    def passage_id(self) -> str:
        return f"{self.doc_id}:0"


class Places(msgspec.Struct, frozen=True):
    """Where the accepted answers of a question stand, in characters of one document."""

    doc_id: str
    spans: list[tuple[int, int]]

    def are_in(self, citation: Citation) -> bool:
        """Whether the best span of a citation holds one."""
        return any(
            span.doc_id == self.doc_id and span.start <= start and end <= span.end
            for span in citation.sources[:1]
            for start, end in self.spans
        )


class Case(msgspec.Struct, frozen=True):
    """One question: its sources, the gold one among them, and where the answer stands."""

    question: str
    answer: str
    sources: list[Page]
    gold: Page
    places: Places
    other_answer: str
    """Of another question about the same paragraph; empty if there is none."""
    foreign: str
    """A sentence about something else."""

    @property
    def sentence(self) -> str:
        """The answer in the place of the question word."""
        said, n_replaced = _ASKS.subn(lambda _: self.answer, self.question.rstrip("? "), 1)
        return f"{said if n_replaced else f'{said}: {self.answer}'}."

    def with_answer(self, answer: str) -> str:
        return msgspec.structs.replace(self, answer=answer).sentence

    @property
    def without_gold(self) -> list[Page]:
        return [page for page in self.sources if page is not self.gold]


class CitingReport(msgspec.Struct, frozen=True):
    """`grounded`: by form of the answer, precision and recall of the spans; `traps`: by kind, the
    share of answers without ground that were cited or inferred all the same."""

    n_questions: int
    grounded: dict[str, tuple[Figure, Figure]]
    traps: dict[str, Figure]

    def to_table(self) -> str:
        lines = [f"{self.n_questions} questions", "", "| answer | precision | recall |"]
        lines += ["|---|---|---|"]
        lines += [f"| {name} | {p} | {r} |" for name, (p, r) in self.grounded.items()]
        lines += ["", "| trap | held for supported |", "|---|---|"]
        lines += [f"| {name} | {share} |" for name, share in self.traps.items()]
        return "\n".join(lines)


def read_cases(path: Path, *, limit: int | None = None, seed: int = SEED) -> list[Case]:
    """Return a case for each question of a SQuAD file (.gz or not), or for `limit` drawn ones.

    Raises Unreadable.
    """
    pages, asked = _read(path)
    drawn = random.Random(seed)
    if limit is not None and limit < len(asked):
        asked = drawn.sample(asked, limit)
    ranking = bm25s.BM25()
    texts = [page.text for page in pages]
    ranking.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    return [_case(question, at, others, pages, ranking, drawn) for question, at, others in asked]


def _read(path: Path) -> tuple[list[Page], list[tuple[SquadQuestion, int, list[SquadQuestion]]]]:
    """Return all paragraphs, and each question with the number of its own and its siblings."""
    pages: list[Page] = []
    asked: list[tuple[SquadQuestion, int, list[SquadQuestion]]] = []
    for doc_id, title, paragraph in read_squad(path).paragraphs():
        asked += [(question, len(pages), paragraph.qas) for question in paragraph.qas]
        pages.append(Page(0, doc_id, title, paragraph.context))
    return pages, asked


def _case(
    question: SquadQuestion,
    at: int,
    siblings: list[SquadQuestion],
    pages: list[Page],
    ranking: bm25s.BM25,
    drawn: random.Random,
) -> Case:
    terms = bm25s.tokenize(question.question, show_progress=False)
    rows = ranking.retrieve(terms, k=min(N_SOURCES + 1, len(pages)), show_progress=False)[0][
        0
    ].tolist()
    chosen = [at, *(row for row in rows if row != at)][:N_SOURCES]
    drawn.shuffle(chosen)
    sources = [msgspec.structs.replace(pages[row], n=n) for n, row in enumerate(chosen, 1)]
    elsewhere = pages[(at + len(pages) // 2) % len(pages)]  # articles follow one another
    accepted = {answer.text.casefold() for answer in question.answers}
    others = [
        other.answers[0].text
        for other in siblings
        if not any(_overlaps(answer.text, accepted) for answer in other.answers)
    ]
    return Case(
        question=question.question,
        answer=question.answers[0].text,
        sources=sources,
        gold=sources[chosen.index(at)],
        places=_places(question, pages[at]),
        other_answer=drawn.choice(others) if others else "",
        foreign=elsewhere.text.partition(". ")[0] + ".",
    )


def _overlaps(text: str, accepted: set[str]) -> bool:
    return any(text.casefold() in other or other in text.casefold() for other in accepted)


def cite(question: str, answer: str, sources: list[Page]) -> list[Citation]:
    """Return the citations of a whole answer."""
    citer = Citer(question, sources)
    return [*citer.feed(answer), *citer.finish()]


def _marked(case: Case, page: Page) -> str:
    return f"{case.sentence[:-1]} [{page.n}]."


GROUNDED: Mapping[str, Callable[[Case], str]] = {
    "the answer alone": lambda case: case.answer,
    "a sentence": lambda case: case.sentence,
    "a sentence, rightly marked": lambda case: _marked(case, case.gold),
    "a sentence, wrongly marked": lambda case: _marked(case, case.without_gold[0]),
}
# Name → (sources, answer); whatever is supported in these is wrong.
TRAPS: Mapping[str, Callable[[Case], tuple[list[Page], str]]] = {
    "the answer alone, its paragraph is not there": lambda c: (c.without_gold, c.answer),
    "a sentence, its paragraph is not there": lambda c: (c.without_gold, c.sentence),
    "the paragraph's answer to another question": lambda c: (
        [c.gold],
        c.with_answer(c.other_answer),
    ),
    "a sentence about something else, marked": lambda c: (
        c.sources,
        f"{c.foreign[:-1]} [{c.gold.n}].",
    ),
}


def evaluate(path: Path, *, limit: int | None = None) -> CitingReport:
    """Cite made answers to the questions of a SQuAD file, and judge the spans."""
    return evaluate_cases(read_cases(path, limit=limit))


def evaluate_cases(cases: list[Case]) -> CitingReport:
    grounded = {}
    for name, answer_of in GROUNDED.items():
        cited = [cite(case.question, answer_of(case), case.sources) for case in cases]
        right = [
            float(any(case.places.are_in(citation) for citation in citations))
            for case, citations in zip(cases, cited, strict=True)
        ]
        among = [
            float(case.places.are_in(citation))
            for case, citations in zip(cases, cited, strict=True)
            for citation in citations
            if citation.sources
        ]
        grounded[name] = (figure(among), figure(right))
    traps = {name: figure(list(_caught(cases, trap))) for name, trap in TRAPS.items()}
    return CitingReport(len(cases), grounded, traps)


def _caught(cases: list[Case], trap: Callable[[Case], tuple[list[Page], str]]) -> Iterator[float]:
    for case in cases:
        if not case.other_answer:
            continue
        sources, answer = trap(case)
        citations = cite(case.question, answer, sources)
        yield float(any(citation.sources for citation in citations))


def load_places(path: Path) -> dict[str, Places]:
    """Question id → where its answers stand in the documents that `ragrelay index` makes of a
    SQuAD file. Raises Unreadable."""
    pages, asked = _read(path)
    return {question.id: _places(question, pages[at]) for question, at, _ in asked}


def _places(question: SquadQuestion, page: Page) -> Places:
    spans: list[tuple[int, int]] = []
    for answer in question.answers:
        if answer.answer_start is None:
            raise Unreadable(f"question {question.id}: an answer has no answer_start")
        spans.append((answer.answer_start, answer.answer_start + len(answer.text)))
    return Places(page.doc_id, spans)


def held(
    answer: str, citations: Sequence[Citation], accepted: Sequence[str], places: Places
) -> list[float | None]:
    """Return, for each sentence with an accepted answer, whether its citation holds the place.

    None for a sentence that nothing is cited for; empty for an answer that is not right.
    """
    wanted = [text.casefold() for text in accepted]
    return [
        float(places.are_in(citation)) if citation.sources else None
        for citation in citations
        if any(text in answer[citation.start : citation.end].casefold() for text in wanted)
    ]


def figure(values: list[float]) -> Figure:
    """Return the mean with its interval; of nothing, 0."""
    (mean,) = bootstrap(np.array([values])) if values else [Figure(0.0, 0.0, 0.0)]
    return mean
