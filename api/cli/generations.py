"""`ragrelay generations`: list the builds of the index, serve an earlier one, verify files."""

import sys
from pathlib import Path

import click

from api.settings.env import Settings
from retrieval.types import RetrievalError


@click.group("generations")
def generations_group() -> None:
    """List, roll back and verify the builds of the index."""


@generations_group.command("list")
def list_() -> None:
    """Print a line for each generation, newest first; * marks the one that serves."""
    from retrieval.index.index import list_generations
    from retrieval.library.publishing import serving

    index_dir = _index_dir()
    current = serving(index_dir)
    for manifest in list_generations(index_dir):
        mark, counts = "*" if manifest.id == current else " ", manifest.counts
        click.echo(
            f"{mark} {manifest.id}\t{counts.documents} documents\t{counts.passages} passages\t"
            f"{manifest.embedding.model_id}\t{manifest.created_at}"
        )


@generations_group.command("rollback")
@click.argument("generation", required=False)
def rollback(generation: str | None) -> None:
    """Serve GENERATION again; without it, the newest that does not serve.

    Documents deleted since stay deleted. The next change of documents builds a new generation
    from all of them, so a rollback lasts until then.
    """
    from retrieval.index import generations

    click.echo(f"serving {generations.rollback(_index_dir(), generation)}")


@generations_group.command("verify")
def verify() -> None:
    """Compare the files of every generation with their checksums."""
    from retrieval.index.index import list_generations, open_generation

    index_dir = _index_dir()
    damaged = False
    for manifest in list_generations(index_dir):
        try:
            open_generation(index_dir, manifest.id).close()
            click.echo(f"{manifest.id}\twhole")
        except RetrievalError as exc:
            damaged = True
            click.echo(f"{manifest.id}\t{exc}")
    if damaged:
        sys.exit(1)


def _index_dir() -> Path:
    return Path(Settings.from_env().retrieval.index_dir)
