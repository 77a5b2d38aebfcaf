"""Data of a smoke run in the form of the published sets: the project's own pages, asked about."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import msgspec

PAGES = Path("docs")
WORDS = 40
N_PARAGRAPHS = 12


def windows() -> Iterator[str]:
    """The pages in texts of WORDS words."""
    for page in sorted(PAGES.glob("*.md")):
        words = page.read_text().split()
        for start in range(0, len(words) - WORDS, WORDS):
            yield " ".join(words[start : start + WORDS])


def write_squad(path: Path) -> None:
    """Two articles; each paragraph is asked for a word of its own."""
    texts = list(itertools.islice(windows(), 2 * N_PARAGRAPHS))
    articles = [
        {"title": f"Article {n}", "paragraphs": [_paragraph(text) for text in texts[n::2]]}
        for n in range(2)
    ]
    path.write_bytes(msgspec.json.encode({"data": articles}))


def write_scifact(folder: Path) -> None:
    """Texts as abstracts; the claims are their first words."""
    texts = list(itertools.islice(windows(), N_PARAGRAPHS))
    corpus = [{"id": str(n), "title": f"T{n}", "text": text} for n, text in enumerate(texts)]
    queries = [{"id": str(n), "text": " ".join(text.split()[:8])} for n, text in enumerate(texts)]
    judged = [f"{n}\t{n}\t1" for n in range(len(texts))]
    folder.mkdir()
    (folder / "corpus.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, corpus)))
    (folder / "queries.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, queries)))
    (folder / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged, ""]))


def _paragraph(text: str) -> dict[str, object]:
    words = text.split()
    answer = max(words[4:], key=len)
    question = f"What is named after {' '.join(words[:3])}?"
    answers = [{"text": answer, "answer_start": text.index(answer)}]
    return {
        "context": text,
        "qas": [
            {"id": f"{hash(text)}-{n}", "question": question, "answers": answers} for n in range(2)
        ],
    }
