"""`ragrelay eval` and `ragrelay cache`: measure retrieval and the answer cache."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from api.machine import available_cores
from api.progress import Bar, load_all_cores
from api.settings import Settings

if TYPE_CHECKING:
    from api.caching.evaluation import Encode
    from retrieval.evaluation import Qrels, Queries


@click.group(name="eval")
def evaluation() -> None:
    """Measure retrieval on judged questions."""


@evaluation.command(name="squad")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--limit", type=int, help="Only the first N questions")
def eval_squad(path: Path, limit: int | None) -> None:
    """PATH: a file in SQuAD's JSON, .gz or not."""
    from retrieval.evaluation import load_squad

    queries, qrels = load_squad(path)
    _evaluate(path, queries, qrels, limit)


@evaluation.command(name="qrels")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--limit", type=int, help="Only the first N questions")
def eval_qrels(folder: Path, limit: int | None) -> None:
    """FOLDER: corpus.jsonl[.gz], queries.jsonl[.gz] and qrels.tsv."""
    from retrieval.evaluation import load_qrels

    queries, qrels = load_qrels(folder)
    corpus = next(p for p in (folder / "corpus.jsonl", folder / "corpus.jsonl.gz") if p.exists())
    _evaluate(corpus, queries, qrels, limit)


@click.group()
def cache() -> None:
    """Measure the answer cache on labelled pairs of questions (.jsonl, .gz or not)."""


@cache.command(name="eval")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def cache_eval(files: tuple[Path, ...]) -> None:
    """Print recall and false hits of FILES by category, and the whole curve."""
    from api.caching.evaluation import evaluate_pairs

    with _cache_encoder() as encode:
        click.echo(evaluate_pairs(files, encode).to_table())


@cache.command(name="calibrate")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--target", default=0.025, show_default=True, help="False hits at most")
def cache_calibrate(files: tuple[Path, ...], target: float) -> None:
    """Print the lowest CACHE_SIMILARITY_THRESHOLD that keeps false hits under the target."""
    from api.caching.calibration import calibrate_files

    with _cache_encoder() as encode:
        click.echo(calibrate_files(files, encode, target=target).to_table())


@contextmanager
def _cache_encoder() -> Iterator["Encode"]:
    from retrieval.embedding import load_embedder

    model = Settings.from_env().cache.embedding_model
    embedder = load_embedder(model, threads=available_cores())
    try:
        yield embedder.encode_queries
    finally:
        embedder.close()


def _evaluate(corpus: Path, queries: "Queries", qrels: "Qrels", limit: int | None) -> None:
    """Index `corpus` in a folder of its own, ask every question, print the table."""
    from tempfile import TemporaryDirectory

    from retrieval.build import build_index
    from retrieval.evaluation import evaluate
    from retrieval.index import open_index
    from retrieval.retriever import Retriever

    settings = Settings.from_env()
    if limit is not None:
        queries = dict(list(queries.items())[:limit])
    with TemporaryDirectory(prefix="ragrelay-eval-") as folder, Bar() as bar:
        embedder = load_all_cores(settings)
        build_index(Path(folder), [corpus], embedder, on_progress=bar.show)
        opened = open_index(Path(folder))
        retriever = Retriever(
            embedder,
            opened,
            fusion=settings.retrieval.fusion,
            sparse_weight=settings.retrieval.sparse_weight,
            min_similarity=settings.retrieval.min_similarity,
        )
        report = evaluate(retriever, queries, qrels)
        opened.close()
        embedder.close()
    click.echo(report.to_table())
