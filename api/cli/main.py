"""The command `ragrelay`: `up`, `serve` and `index` are here, each other group in its own module.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings (a taken port too), 130 interrupted.
"""

import faulthandler
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from api import logs
from api.cli.building import Bar, opened, publish_now, tell_built, tell_skipped
from api.cli.documents import documents_group
from api.cli.eval import cache, evaluation
from api.cli.generations import generations_group
from api.cli.keys import keys_group, open_own_keys
from api.cli.log import db_group, log_group
from api.cli.models import models
from api.cli.rebuild import rebuild_index
from api.cli.selftest import selftest
from api.cli.talk import ask, chat, status
from api.settings.env import Settings, SettingsError
from retrieval.reading.bounded import Unreadable
from retrieval.types import IndexBusy, RetrievalError

if TYPE_CHECKING:
    from retrieval.build.build import BuildReport

PROJECT = Path(__file__).parents[2]
SAMPLE = (
    "README.md",
    *(f"docs/{page}.md" for page in (
        "api", "deploy", "figures", "operating", "page", "retrieval", "settings",
    )),
    "docs/runbooks",
)  # fmt: skip
"""Indexed by `up` without paths where it runs from a clone: this project's pages for its users.

Those for its developers would stand before them: "Which file formats are read?" found them."""
BUSY_S = 600.0
"""How long `up` and `index` wait for another process that builds."""

_paths = click.argument(
    "paths", nargs=-1, type=click.Path(path_type=Path, exists=True, readable=False)
)


def main() -> None:
    """Run the command line; expected failures become one line on stderr."""
    faulthandler.enable()
    try:
        cli(standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except SettingsError as exc:
        _fail(str(exc), 2)
    except (RetrievalError, Unreadable, OSError) as exc:
        _fail(str(exc), 1)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"ragrelay: {message}", err=True)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ragrelay")
def cli() -> None:
    """Answer questions from your documents with a language model of your choice."""


@cli.command()
@_paths
def up(paths: tuple[Path, ...]) -> None:
    """Index PATHS, then serve them: engine, stores and API in one command.

    Without PATHS it serves the index in RETRIEVAL_INDEX_DIR; if there is none, it indexes
    ragrelay's own documentation first.
    """
    _serve(lambda settings: _ensure_index(settings, paths))


@cli.command()
def serve() -> None:
    """Serve the index in RETRIEVAL_INDEX_DIR, or wait until there is one."""
    _serve(lambda settings: None)


@cli.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--rebuild", is_flag=True, help="Build anew from all documents, for another embedding model"
)
@click.option(
    "--questions",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="With --rebuild: a file of questions, one a line, to compare the two indexes by",
)
def index(paths: tuple[Path, ...], rebuild: bool, questions: Path | None) -> None:
    """Index files and folders, in place of those indexed before.

    Documents added through the API stay. With --rebuild and without PATHS all documents are
    embedded anew beside the index that serves; the new index is compared with it, then serves.
    """
    if bool(paths) == rebuild or (questions and not rebuild):
        raise click.UsageError("name files or folders, or --rebuild [--questions FILE]")
    settings = Settings.from_env()
    if rebuild:
        rebuild_index(settings, questions)
        return
    if not _build(settings, paths).documents:
        sys.exit(1)


for command in (
    evaluation,
    cache,
    keys_group(open_own_keys),
    ask,
    chat,
    status,
    models,
    selftest,
    documents_group,
    generations_group,
    db_group,
    log_group,
):
    cli.add_command(command)


def _serve(prepare: Callable[[Settings], None]) -> None:
    settings = Settings.from_env()
    # libuv looks two names up at a time by default, and has numeric addresses wait behind them: a
    # Redis whose name is not found for seconds would hold up every connection to an engine.
    os.putenv("UV_THREADPOOL_SIZE", "64")

    import uvloop

    from api.app import create_app
    from api.server import bind
    from api.server import serve as run_server

    logs.configure(settings.api.log_level)
    listener = bind(settings.api)
    prepare(settings)
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if not settings.auth.enabled and host not in ("127.0.0.1", "::1"):
        click.echo(f"warning: {url} answers without a key; set AUTH_ENABLED and AUTH_API_KEY")
    click.echo(f"loading; {url} opens now and answers in a few seconds")
    uvloop.run(run_server(create_app(settings), listener, lambda: _welcome(url)))


def _welcome(url: str) -> None:
    click.echo(
        f"""
ragrelay answers at {url}   (API pages: {url}/docs, stop: Ctrl-C)

  curl -N {url}/query/stream -H 'Content-Type: application/json' \\
       -d '{{"query": "How do I use my own documents?"}}'
"""
    )


def _ensure_index(settings: Settings, paths: tuple[Path, ...]) -> None:
    from retrieval.index.index import current_generation

    index_dir = Path(settings.retrieval.index_dir)
    if not paths and current_generation(index_dir) is not None:
        click.echo(
            f"serving the index in {index_dir}; `make run DOCS=path` indexes other documents"
        )
        return
    sample = tuple(PROJECT / name for name in SAMPLE if (PROJECT / name).exists())
    if not paths and not sample:
        raise click.UsageError("name the files or folders to index: ragrelay up PATH…")
    _build(settings, paths or sample)


def _build(settings: Settings, paths: tuple[Path, ...]) -> "BuildReport":
    from retrieval.build.build import read_corpus

    with Bar() as bar:
        corpus = read_corpus(paths, bar.show)
    tell_skipped(corpus.skipped)
    with opened(settings) as library:
        for doc_id in library.replace_paths(corpus.documents):
            click.echo(
                f"skipped {ascii(doc_id)[1:-1]}: the API has a document of this id", err=True
            )
        report = publish_now(settings, library, skipped=corpus.skipped, busy_s=BUSY_S)
    if report is None:
        raise IndexBusy("another process is still building the index, and takes the documents over")
    tell_built(report)
    return report
