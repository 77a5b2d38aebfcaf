"""`ragrelay models pull` and `selftest`: what an image needs before it serves."""

import sys

import click

from api.settings.env import Settings


@click.group()
def models() -> None:
    """The embedding and reranking models that the settings name."""


@models.command()
def pull() -> None:
    """Fetch them from the hub, pinned where a revision is set, and name their folders."""
    from retrieval.models.resolve import resolve_model

    settings = Settings.from_env()
    retrieval, cache = settings.retrieval, settings.cache
    wanted = {
        retrieval.embedding_model: retrieval.embedding_revision or None,
        cache.embedding_model: None,
        cache.verifier_model: None,
        retrieval.rerank_model: retrieval.rerank_revision or None,
        settings.citations.verifier_model: settings.citations.verifier_revision or None,
    }
    if cache.embedding_model == retrieval.embedding_model:
        wanted[cache.embedding_model] = retrieval.embedding_revision or None
    for model_id, revision in wanted.items():
        if model_id:
            click.echo(f"{model_id}: {resolve_model(model_id, revision=revision)}")


@click.command()
def selftest() -> None:
    """Run torch, FAISS and BM25 together in every order of import, from several threads."""
    from api.cli.selftest import run

    failures = run()
    for order, reason in failures:
        click.echo(f"imported as {order}: {reason}", err=True)
    if failures:
        sys.exit(1)
    click.echo("torch, FAISS and BM25 get along here")
