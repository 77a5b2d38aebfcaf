"""What the commands that build an index share: read files, load the model, build, report.

The commands work on the index directory of the settings, beside a running server or without one;
a server that runs there serves the new index within a second.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from api.machine import available_cores
from api.settings.env import Settings
from retrieval.types import IndexBusy

if TYPE_CHECKING:
    from tqdm import tqdm

    from retrieval.build.build import BuildReport
    from retrieval.library.library import Library
    from retrieval.models.embedder import Embedder
    from retrieval.reading.documents import Skipped
    from retrieval.types import Document

RETRY_S = 0.5
"""Between two tries while another process builds."""
SHOWN_SKIPS = 20


@contextmanager
def opened(settings: Settings) -> Iterator["Library"]:
    """Open the documents of record in the index directory."""
    from retrieval.library.library import Library

    library = Library(settings.retrieval.index_dir)
    try:
        yield library
    finally:
        library.close()


def read_paths(paths: tuple[Path, ...]) -> tuple[list["Document"], list["Skipped"]]:
    """Read the documents in files and folders, and list what cannot be read."""
    from retrieval.reading.documents import Skipped, read_documents

    found: list[Document] = []
    skipped: list[Skipped] = []
    for entry in read_documents(paths):
        if isinstance(entry, Skipped):
            skipped.append(entry)
        else:
            found.append(entry)
    return found, skipped


def load_all_cores(settings: Settings) -> "Embedder":
    """Load the embedding model with a thread for every core: nothing is served beside a build."""
    from retrieval.models.embedder import load_embedder

    model = settings.retrieval.embedding
    return load_embedder(
        model.id,
        revision=model.revision,
        device=settings.retrieval.device,
        threads=available_cores(),
        backend=settings.retrieval.backend,
    )


def publish_now(
    settings: Settings,
    library: "Library",
    *,
    skipped: Sequence["Skipped"] = (),
    busy_s: float = 0.0,
) -> "BuildReport | None":
    """Build what changed; None if nothing is left, or others still build after `busy_s`."""
    from retrieval.library.publishing import publish

    give_up_at = time.monotonic() + busy_s
    with Bar() as bar:
        embedder = load_all_cores(settings)
        try:
            while True:
                try:
                    return publish(
                        library,
                        embedder,
                        language=settings.retrieval.language,
                        skipped=skipped,
                        on_progress=bar.show,
                    )
                except IndexBusy:
                    if time.monotonic() > give_up_at:
                        return None
                    time.sleep(RETRY_S)
        finally:
            embedder.close()


def tell_skipped(skipped: Sequence["Skipped"]) -> None:
    """Print on stderr which files were not read, and why."""
    for skip in skipped[:SHOWN_SKIPS]:
        click.echo(f"skipped {skip.path}: {skip.reason}", err=True)
    if len(skipped) > SHOWN_SKIPS:
        click.echo(f"… and {len(skipped) - SHOWN_SKIPS} more skipped", err=True)


def tell_built(report: "BuildReport | None") -> None:
    """Print what a build made; None is a build that was left to another process."""
    if report is None:
        click.echo("the server that runs here indexes it, or nothing is left to index")
        return
    state = "unchanged" if report.unchanged else f"built in {report.seconds:.1f} s"
    click.echo(
        f"index {report.generation}: {report.documents} documents, {report.passages} passages, "
        f"{state}"
    )


class Bar:
    """A progress bar for each stage, with rate and time left; silent if stderr is no terminal."""

    def __init__(self) -> None:
        self._stage = ""
        self._bar: tqdm[None] | None = None

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def show(self, stage: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None or stage != self._stage:
            self._close()
            self._stage = stage
            self._bar = tqdm(desc=stage, total=total or None, unit=" passages", disable=None)
        self._bar.update(done - self._bar.n)
