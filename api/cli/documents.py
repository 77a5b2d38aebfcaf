"""`ragrelay documents`: add, list and delete single documents.

With `--url` through a running server; without it in the index directory of the settings, where a
running server sees the change within a second.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import click
import msgspec

from api.cli.building import opened, publish_now, read_paths, tell_built, tell_skipped
from api.cli.client import Server, shown
from api.cli.options import other_server_options
from api.settings.env import Settings
from retrieval.index.filters import EVERYTHING, View
from retrieval.types import PUBLIC

if TYPE_CHECKING:
    from retrieval.types import Document

POLL_S = 0.5
"""Between two looks at a job."""
PAGE = 1000
BATCH = 500
BATCH_CHARS = 8_000_000
OWN = View(tenant=PUBLIC)

_server_options = other_server_options("Use the documents of this server: http://127.0.0.1:8000")


@click.group("documents")
def documents_group() -> None:
    """Add, list and delete single documents."""


@documents_group.command("add")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@_server_options
def add(paths: tuple[Path, ...], url: str | None, key: str) -> None:
    """Add the documents in files and folders; one whose id is there already replaces it."""
    found, skipped = read_paths(paths)
    tell_skipped(skipped)
    if not found:
        raise click.ClickException("no document to add")
    if url is not None:
        _add_remotely(Server(url, key), found)
        return
    from retrieval.library.jobs import submit

    settings = Settings.from_env()
    with opened(settings) as library:
        submit(library, found, [], view=OWN)
        tell_built(publish_now(settings, library))


@documents_group.command("list")
@click.option("-q", "sought", default="", help="Only ids and titles that contain this")
@_server_options
def list_(sought: str, url: str | None, key: str) -> None:
    """Print a line for each document: its id, its length in characters, its title."""
    listed = _remote_pages(Server(url, key), sought) if url else _own_pages(sought)
    for doc_id, chars, title in listed:
        click.echo(f"{_one_line(doc_id)}\t{chars}\t{_one_line(title)}")


@documents_group.command("delete")
@click.argument("doc_id")
@_server_options
def delete(doc_id: str, url: str | None, key: str) -> None:
    """Delete a document: gone from search, answers and cache when this returns."""
    if url is not None:
        Server(url, key).call("DELETE", f"/documents/{quote(doc_id, safe='')}")
        click.echo("deleted")
        return
    settings = Settings.from_env()
    with opened(settings) as library:
        if not library.delete(doc_id, EVERYTHING):
            raise click.ClickException("no such document")
        click.echo("deleted")
        tell_built(publish_now(settings, library))


def _own_pages(sought: str) -> Iterator[tuple[str, int, str]]:
    with opened(Settings.from_env()) as library:
        after = ""
        while page := library.documents(EVERYTHING, limit=PAGE, after=after, q=sought):
            yield from ((kept.doc_id, kept.chars, kept.title) for kept in page)
            after = page[-1].doc_id


def _remote_pages(server: Server, sought: str) -> Iterator[tuple[str, int, str]]:
    after: str | None = ""
    while after is not None:
        path = f"/documents?limit={PAGE}&after={quote(after, safe='')}&q={quote(sought, safe='')}"
        page = server.call("GET", path)
        yield from ((one["doc_id"], one["chars"], one["title"]) for one in page["documents"])
        after = page["next"]


def _add_remotely(server: Server, found: list["Document"]) -> None:
    for batch in _batches(found):
        body = {
            "documents": [
                {"id": one.doc_id, "title": one.title, "text": one.text, "metadata": one.metadata}
                for one in batch
            ]
        }
        job = server.call("POST", "/documents", msgspec.json.encode(body))["job"]
        while job["finished_at"] is None:
            time.sleep(POLL_S)
            job = server.call("GET", f"/jobs/{job['id']}")["job"]
        click.echo(f"{len(batch)} documents: {job['state']}, generation {job['generation']}")
        if job["state"] == "failed":
            sys.exit(1)


def _batches(found: list["Document"]) -> Iterator[list["Document"]]:
    """Split into batches, each as many documents as one request may carry."""
    batch: list[Document] = []
    chars = 0
    for one in found:
        if batch and (len(batch) == BATCH or chars + len(one.text) > BATCH_CHARS):
            yield batch
            batch, chars = [], 0
        batch.append(one)
        chars += len(one.text)
    if batch:
        yield batch


def _one_line(text: str) -> str:
    return shown(text.replace("\t", " ").replace("\n", " "))
