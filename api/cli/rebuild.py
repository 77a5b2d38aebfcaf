"""`ragrelay index --rebuild`: build the index anew and compare its results before it serves."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from api.cli.building import Bar, load_all_cores, opened, tell_built
from api.machine import available_cores
from api.settings.env import Settings
from retrieval.types import IndexMismatch, ModelUnavailable

if TYPE_CHECKING:
    from retrieval.index.index import Index
    from retrieval.search.retriever import Retriever

MOST_QUESTIONS = 1000


def rebuild_index(settings: Settings, questions: Path | None) -> None:
    """Embed all documents with the model of the settings, compare, then serve the new index.

    `questions` has one a line, to compare by; without it they are drawn from the old index.
    Raises RetrievalError.
    """
    from retrieval.library.rebuilding import rebuild

    asked = _lines(questions) if questions else []
    embedder = load_all_cores(settings)
    try:
        with opened(settings) as library, Bar() as bar:
            report = rebuild(
                library,
                embedder,
                language=settings.retrieval.language,
                compare=lambda old, new: _compare(settings, old, _retriever(embedder, new), asked),
                on_progress=bar.show,
            )
    finally:
        embedder.close()
    tell_built(report)
    click.echo("back to the one before: ragrelay generations rollback")


def _compare(settings: Settings, old: "Index | None", new: "Retriever", asked: list[str]) -> None:
    from retrieval.library.rebuilding import overlap, sample_questions
    from retrieval.models.embedder import load_embedder

    if old is None:
        click.echo("no index to compare with")
        return
    model = old.manifest.embedding.model_id
    try:
        embedder = load_embedder(
            model, device=settings.retrieval.device, threads=available_cores(),
            backend=settings.retrieval.backend,
        )  # fmt: skip
    except ModelUnavailable as exc:
        click.echo(f"not compared: {exc}")
        return
    try:
        before = _retriever(embedder, old)
        found = overlap(before, new, asked or sample_questions(old))
    except IndexMismatch as exc:  # its weights are other ones by now
        click.echo(f"not compared: {exc}")
        return
    finally:
        embedder.close()
    click.echo(
        f"{found.questions} questions: {found.mean:.0%} of the documents among the first 10 are"
        f" the same, {found.same_first:.0%} have the same first"
    )


def _retriever(embedder: object, index: "Index") -> "Retriever":
    from retrieval.search.retriever import Retriever

    return Retriever(embedder, index)  # type: ignore[arg-type]


def _lines(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()][:MOST_QUESTIONS]
