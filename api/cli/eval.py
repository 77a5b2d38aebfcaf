"""`ragrelay eval` and `ragrelay cache`: measure retrieval, citations and the answer cache."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from api.cli.building import Bar
from api.cli.client import Fields, Server
from api.cli.options import other_server_options
from api.machine import available_cores
from api.settings.env import Settings, SettingsError, variables
from api.settings.types import read_model

if TYPE_CHECKING:
    from api.evaluation.cache import Encode
    from retrieval.evaluation.comparison import Configuration
    from retrieval.evaluation.evaluation import Qrels, Queries

ANSWER_S = 300.0
"""An answer may take a small machine minutes."""


@click.group(name="eval")
def evaluation() -> None:
    """Measure retrieval and citations on judged questions."""


_limit = click.option("--limit", type=int, help="Only the first N questions")
_others = click.option(
    "--set",
    "changes",
    multiple=True,
    help="Also measure with these settings: RETRIEVAL_FUSION=rrf[,NAME=VALUE…]; repeatable",
)


@evaluation.command(name="squad")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@_limit
@_others
@other_server_options("Measure the answers of this server instead: EM, F1 and citations")
def eval_squad(
    path: Path, limit: int | None, changes: tuple[str, ...], url: str | None, key: str
) -> None:
    """Measure on PATH, a file in SQuAD's JSON, .gz or not."""
    from retrieval.evaluation.evaluation import load_squad, load_squad_answers

    queries, qrels = load_squad(path)
    if url is not None:
        from api.evaluation.answers import evaluate_answers
        from api.evaluation.citations import load_places

        accepted, places = load_squad_answers(path), load_places(path)
        ask = _asking(Server(url, key, timeout_s=ANSWER_S))
        report = evaluate_answers(ask, _first(queries, limit), accepted, places)
        click.echo(report.to_table())
        return
    _evaluate(path, _first(queries, limit), qrels, changes)


@evaluation.command(name="qrels")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@_limit
@_others
def eval_qrels(folder: Path, limit: int | None, changes: tuple[str, ...]) -> None:
    """Measure on FOLDER, which has corpus.jsonl[.gz], queries.jsonl[.gz] and qrels.tsv."""
    from retrieval.evaluation.evaluation import load_qrels

    queries, qrels = load_qrels(folder)
    corpus = next(p for p in (folder / "corpus.jsonl", folder / "corpus.jsonl.gz") if p.exists())
    _evaluate(corpus, _first(queries, limit), qrels, changes)


@evaluation.command(name="citations")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@_limit
def eval_citations(path: Path, limit: int | None) -> None:
    """Measure citations on answers made from PATH, a file in SQuAD's JSON; no model is asked."""
    from api.evaluation.citations import evaluate

    click.echo(evaluate(path, limit=limit).to_table())


@click.group()
def cache() -> None:
    """Measure the answer cache on labelled pairs of questions (.jsonl, .gz or not)."""


@cache.command(name="eval")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def cache_eval(files: tuple[Path, ...]) -> None:
    """Print recall and false hits on FILES: by category, and for every threshold."""
    from api.evaluation.cache import evaluate_pairs

    with _cache_encoder() as encode:
        click.echo(evaluate_pairs(files, encode).to_table())


@cache.command(name="calibrate")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--target", default=0.025, show_default=True, help="Highest share of false hits")
def cache_calibrate(files: tuple[Path, ...], target: float) -> None:
    """Print the lowest CACHE_SIMILARITY_THRESHOLD whose false hits stay under the target."""
    from api.evaluation.calibration import calibrate_files

    with _cache_encoder() as encode:
        click.echo(calibrate_files(files, encode, target=target).to_table())


def _asking(server: Server) -> Callable[[str], Fields | None]:
    def ask(question: str) -> Fields | None:
        try:
            return server.ask({"query": question})
        except click.ClickException:  # counts as a wrong answer
            return None

    return ask


@contextmanager
def _cache_encoder() -> Iterator["Encode"]:
    from retrieval.models.embedder import load_embedder

    model = read_model(Settings.from_env().cache.embedding_model)
    embedder = load_embedder(model.id, revision=model.revision, threads=available_cores())
    try:
        yield embedder.encode_queries
    finally:
        embedder.close()


def _first(queries: "Queries", limit: int | None) -> dict[str, str]:
    return dict(list(queries.items())[:limit])


def _evaluate(
    corpus: Path, queries: Mapping[str, str], qrels: "Qrels", changes: tuple[str, ...]
) -> None:
    """Index `corpus` in a temporary folder and search every question with each configuration."""
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
    """Return the settings with `changes`. Raises SettingsError for one that does not exist."""
    from retrieval.evaluation.comparison import Configuration

    unknown = [v for v in changes if v not in {known.name for known in variables()}]
    if unknown:
        raise SettingsError(f"{unknown[0]}: no such setting")
    settings = Settings.from_env(changed=changes).retrieval
    return Configuration(
        name=name,
        embedding_model=settings.embedding.id,
        embedding_revision=settings.embedding.revision,
        backend=settings.backend,
        device=settings.device,
        language=settings.language,
        fusion=settings.fusion,
        sparse_weight=settings.sparse_weight,
        min_similarity=settings.min_similarity,
        rerank_model=settings.reranking.id,
        rerank_revision=settings.reranking.revision,
    )
