"""`ragrelay documents`: single documents in and out; and what all commands that build share.

With `--url` through a running server; without, on the index directory of the settings, beside a
server or not: a server that runs there sees the change within a second.
"""

import http.client
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import click
import msgspec

from api.cli.building import Bar, load_all_cores
from api.settings.env import Settings
from retrieval.index.filters import EVERYTHING, View
from retrieval.types import PUBLIC, IndexBusy

if TYPE_CHECKING:
    from retrieval.build.build import BuildReport
    from retrieval.library.library import Library
    from retrieval.reading.documents import Skipped
    from retrieval.types import Document

TIMEOUT_S = 60.0
FOLLOW_S = 0.5
PAGE = 1000
BATCH = 500
BATCH_CHARS = 8_000_000
SHOWN_SKIPS = 20
OWN = View(tenant=PUBLIC)

_url = click.option("--url", help="Address of a running server, as http://127.0.0.1:8000")
_key = click.option("--key", help="Its API key; AUTH_API_KEY where none is given")


@click.group("documents")
def documents_group() -> None:
    """Add, list and delete single documents."""


@documents_group.command("add")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@_url
@_key
def add(paths: tuple[Path, ...], url: str | None, key: str | None) -> None:
    """Add what files and folders hold to what is there, or replace what has the same id."""
    found, skipped = read_paths(paths)
    tell_skipped(skipped)
    if not found:
        raise click.ClickException("no document to add")
    if url is not None:
        _add_remotely(_Remote(url, key), found)
        return
    from retrieval.library.jobs import submit

    settings = Settings.from_env()
    with opened(settings) as library:
        submit(library, found, [], view=OWN)
        tell_built(publish_now(settings, library))


@documents_group.command("list")
@click.option("-q", "sought", default="", help="Part of an id or a title")
@_url
@_key
def list_(sought: str, url: str | None, key: str | None) -> None:
    """One line a document: its id, how long it is, and its title."""
    listed = _remote_pages(_Remote(url, key), sought) if url else _own_pages(sought)
    for doc_id, chars, title in listed:
        click.echo(f"{_plain(doc_id)}\t{chars}\t{_plain(title)}")


@documents_group.command("delete")
@click.argument("doc_id")
@_url
@_key
def delete(doc_id: str, url: str | None, key: str | None) -> None:
    """Delete a document: gone from search, answers and cache when this returns."""
    if url is not None:
        _Remote(url, key).call("DELETE", f"/documents/{quote(doc_id, safe='')}")
        click.echo("deleted")
        return
    settings = Settings.from_env()
    with opened(settings) as library:
        if not library.delete(doc_id, EVERYTHING):
            raise click.ClickException("no such document")
        click.echo("deleted")
        tell_built(publish_now(settings, library))


@contextmanager
def opened(settings: Settings) -> Iterator["Library"]:
    from retrieval.library.library import Library

    library = Library(settings.retrieval.index_dir)
    try:
        yield library
    finally:
        library.close()


def publish_now(
    settings: Settings,
    library: "Library",
    *,
    skipped: Sequence["Skipped"] = (),
    busy_s: float = 0.0,
) -> "BuildReport | None":
    """Build what changed; None where nothing is left, or another process builds after `busy_s`."""
    from retrieval.library.publishing import announce, publish

    give_up_at = time.monotonic() + busy_s
    with Bar() as bar:
        embedder = load_all_cores(settings)
        try:
            while True:
                try:
                    report = publish(
                        library,
                        embedder,
                        language=settings.retrieval.language,
                        skipped=skipped,
                        on_progress=bar.show,
                    )
                    announce(library)
                    return report
                except IndexBusy:
                    if time.monotonic() > give_up_at:
                        return None
                    time.sleep(FOLLOW_S)
        finally:
            embedder.close()


def read_paths(paths: tuple[Path, ...]) -> tuple[list["Document"], list["Skipped"]]:
    from retrieval.reading.documents import Skipped, read_documents

    found: list[Document] = []
    skipped: list[Skipped] = []
    for entry in read_documents(paths):
        if isinstance(entry, Skipped):
            skipped.append(entry)
        else:
            found.append(entry)
    return found, skipped


def tell_skipped(skipped: Sequence["Skipped"]) -> None:
    for skip in skipped[:SHOWN_SKIPS]:
        click.echo(f"skipped {_plain(skip.path)}: {skip.reason}", err=True)
    if len(skipped) > SHOWN_SKIPS:
        click.echo(f"… and {len(skipped) - SHOWN_SKIPS} more skipped", err=True)


def tell_built(report: "BuildReport | None") -> None:
    if report is None:
        click.echo("the server that runs here indexes it, or nothing is left to index")
        return
    state = "unchanged" if report.unchanged else f"built in {report.seconds:.1f} s"
    click.echo(
        f"index {report.generation}: {report.documents} documents, {report.passages} passages, "
        f"{state}"
    )


def _own_pages(sought: str) -> Iterator[tuple[str, int, str]]:
    with opened(Settings.from_env()) as library:
        after = ""
        while page := library.documents(EVERYTHING, limit=PAGE, after=after, q=sought):
            yield from ((kept.doc_id, kept.chars, kept.title) for kept in page)
            after = page[-1].doc_id


def _remote_pages(remote: "_Remote", sought: str) -> Iterator[tuple[str, int, str]]:
    after: str | None = ""
    while after is not None:
        path = f"/documents?limit={PAGE}&after={quote(after, safe='')}&q={quote(sought, safe='')}"
        page = remote.call("GET", path)
        yield from ((one["doc_id"], one["chars"], one["title"]) for one in page["documents"])
        after = page["next"]


def _add_remotely(remote: "_Remote", found: list["Document"]) -> None:
    for batch in _batches(found):
        body = {
            "documents": [
                {"id": one.doc_id, "title": one.title, "text": one.text, "metadata": one.metadata}
                for one in batch
            ]
        }
        job = remote.call("POST", "/documents", msgspec.json.encode(body))["job"]
        while job["finished_at"] is None:
            time.sleep(FOLLOW_S)
            job = remote.call("GET", f"/jobs/{job['id']}")["job"]
        click.echo(f"{len(batch)} documents: {job['state']}, generation {job['generation']}")
        if job["state"] == "failed":
            sys.exit(1)


def _batches(found: list["Document"]) -> Iterator[list["Document"]]:
    """As many documents as one body takes."""
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


class _Remote:
    """A running server."""

    def __init__(self, url: str, key: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise click.UsageError("--url: must begin with http:// or https://")
        self._parts = parts
        key = key or Settings.from_env().auth.api_key
        self._headers = {"X-API-Key": key} if key else {}

    def call(self, method: str, path: str, body: bytes | None = None) -> Any:
        """The body of the response, decoded. Raises ClickException with the server's message."""
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=TIMEOUT_S)
        headers = {**self._headers, **({"Content-Type": "application/json"} if body else {})}
        try:
            connection.request(method, self._parts.path.rstrip("/") + path, body, headers)
            response = connection.getresponse()
            decoded = msgspec.json.decode(response.read())
        except (OSError, http.client.HTTPException, msgspec.DecodeError) as exc:
            raise click.ClickException(f"no ragrelay answers at {self._parts.netloc}") from exc
        finally:
            connection.close()
        if response.status >= 400:
            raise click.ClickException(_plain(str(decoded.get("detail", response.status))))
        return decoded


def _plain(text: str) -> str:
    """On one line, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in text)
