"""`ragrelay models`: download the models that the settings name, before a server needs them."""

import click

from api.settings.env import Settings
from api.settings.types import read_model


@click.group()
def models() -> None:
    """Download the models that the settings name."""


@models.command()
def pull() -> None:
    """Download the models from the hub and print their folders; NAME@COMMIT pins one."""
    from retrieval.models.resolve import resolve_model

    settings = Settings.from_env()
    retrieval, cache = settings.retrieval, settings.cache
    wanted = (
        retrieval.embedding_model,
        cache.embedding_model,
        cache.verifier_model,
        retrieval.rerank_model,
        settings.citations.verifier_model,
    )
    for name in dict.fromkeys(filter(None, wanted)):
        model = read_model(name)
        click.echo(f"{name}: {resolve_model(model.id, revision=model.revision)}")
