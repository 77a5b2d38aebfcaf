"""`ragrelay eval` and `ragrelay cache`: measure retrieval and the answer cache."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from api.cli.building import Bar
from api.machine import available_cores
from api.settings.env import Settings, SettingsError, variables

if TYPE_CHECKING:
    from api.evaluation.cache import Encode
    from retrieval.evaluation.comparison import Configuration
    from retrieval.evaluation.evaluation import Qrels, Queries


@click.group(name="eval")
def evaluation() -> None:
    """Measure retrieval on judged questions."""


_limit = click.option("--limit", type=int, help="Only the first N questions")
_others = click.option(
    "--set",
    "changes",
    multiple=True,
    help="Measure this beside the settings as they are: RETRIEVAL_FUSION=rrf[,NAME=VALUE…]",
)


@evaluation.command(name="squad")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@_limit
@_others
@click.option("--url", help="Ask this server instead: its answers (EM, F1) and their citations")
@click.option("--key", default="", envvar="RAGRELAY_API_KEY", help="Its API key")
def eval_squad(
    path: Path, limit: int | None, changes: tuple[str, ...], url: str | None, key: str
) -> None:
    """PATH: a file in SQuAD's JSON, .gz or not."""
    from retrieval.evaluation.evaluation import load_squad, load_squad_answers

    queries, qrels = load_squad(path)
    if url is not None:
        from api.evaluation.answers import evaluate_answers
        from api.evaluation.citations import load_places

        accepted, places = load_squad_answers(path), load_places(path)
        report = evaluate_answers(url, key, _first(queries, limit), accepted, places)
        click.echo(report.to_table())
        return
    _evaluate(path, _first(queries, limit), qrels, changes)


@evaluation.command(name="qrels")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@_limit
@_others
def eval_qrels(folder: Path, limit: int | None, changes: tuple[str, ...]) -> None:
    """FOLDER: corpus.jsonl[.gz], queries.jsonl[.gz] and qrels.tsv."""
    from retrieval.evaluation.evaluation import load_qrels

    queries, qrels = load_qrels(folder)
    corpus = next(p for p in (folder / "corpus.jsonl", folder / "corpus.jsonl.gz") if p.exists())
    _evaluate(corpus, _first(queries, limit), qrels, changes)


@evaluation.command(name="citations")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@_limit
def eval_citations(path: Path, limit: int | None) -> None:
    """PATH: a file in SQuAD's JSON, .gz or not. Answers are made from it; no model is asked."""
    from api.evaluation.citations import evaluate

    click.echo(evaluate(path, limit=limit).to_table())


@click.group()
def cache() -> None:
    """Measure the answer cache on labelled pairs of questions (.jsonl, .gz or not)."""


@cache.command(name="eval")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def cache_eval(files: tuple[Path, ...]) -> None:
    """Print recall and false hits of FILES by category, and the whole curve."""
    from api.evaluation.cache import evaluate_pairs

    with _cache_encoder() as encode:
        click.echo(evaluate_pairs(files, encode).to_table())


@cache.command(name="calibrate")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--target", default=0.025, show_default=True, help="False hits at most")
def cache_calibrate(files: tuple[Path, ...], target: float) -> None:
    """Print the lowest CACHE_SIMILARITY_THRESHOLD that keeps false hits under the target."""
    from api.evaluation.calibration import calibrate_files

    with _cache_encoder() as encode:
        click.echo(calibrate_files(files, encode, target=target).to_table())


@contextmanager
def _cache_encoder() -> Iterator["Encode"]:
    from retrieval.models.embedder import load_embedder

    model = Settings.from_env().cache.embedding_model
    embedder = load_embedder(model, threads=available_cores())
    try:
        yield embedder.encode_queries
    finally:
        embedder.close()


def _first(queries: "Queries", limit: int | None) -> dict[str, str]:
    return dict(list(queries.items())[:limit])


def _evaluate(
    corpus: Path, queries: Mapping[str, str], qrels: "Qrels", changes: tuple[str, ...]
) -> None:
    """Index `corpus` in a folder of its own, ask every question of each configuration."""
    from retrieval.evaluation.comparison import compare

    configurations = [_configuration("settings", {})]
    for change in changes:
        pairs = dict(pair.partition("=")[::2] for pair in change.split(","))
        configurations.append(_configuration(change, pairs))
    with Bar() as bar:
        compared = compare(
            corpus,
            queries,
            qrels,
            configurations,
            threads=available_cores(),
            on_progress=bar.show,
        )
    click.echo(compared.to_table())


def _configuration(name: str, changes: dict[str, str]) -> "Configuration":
    """The settings with some changed. Raises SettingsError for one that does not exist."""
    from retrieval.evaluation.comparison import Configuration

    unknown = [v for v in changes if v not in {known.name for known in variables()}]
    if unknown:
        raise SettingsError(f"{unknown[0]}: no such setting")
    settings = Settings.from_env(changed=changes).retrieval
    return Configuration(
        name=name,
        embedding_model=settings.embedding_model,
        embedding_revision=settings.embedding_revision or None,
        backend=settings.backend,
        device=settings.device,
        language=settings.language,
        fusion=settings.fusion,
        sparse_weight=settings.sparse_weight,
        min_similarity=settings.min_similarity,
        rerank_model=settings.rerank_model,
        rerank_revision=settings.rerank_revision or None,
    )
