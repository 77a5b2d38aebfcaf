"""`ragrelay`: build an index, serve it, measure it.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings (a taken port is one), 130 interrupted.
"""

import faulthandler
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from api import logs
from api.admission.key_store import KeyStore
from api.embedded import ledger_socket
from api.eval_cli import cache, evaluation
from api.keys_cli import keys_group, open_key_store
from api.progress import Bar, load_all_cores
from api.settings import Settings, SettingsError
from api.upkeep_cli import models, selftest
from retrieval.types import RetrievalError

if TYPE_CHECKING:
    from retrieval.build import BuildReport

PROJECT = Path(__file__).parent.parent
SAMPLE = ("README.md", "docs")
"""What a newcomer asks about: this project's own pages, where it runs from a clone."""
SHOWN_SKIPS = 20

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
    except (RetrievalError, OSError) as exc:
        _fail(str(exc), 1)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"ragrelay: {message}", err=True)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ragrelay")
def cli() -> None:
    """Answers from your documents, through the engine of your choice."""


@cli.command()
@_paths
def up(paths: tuple[Path, ...]) -> None:
    """Index PATHS, then serve them: engine, stores and API in one command.

    Without PATHS the index that is there serves; if there is none, ragrelay's own
    documentation is indexed.
    """
    _serve(lambda settings: _ensure_index(settings, paths))


@cli.command()
def serve() -> None:
    """Serve the index that is there, or wait for one."""
    _serve(lambda settings: None)


@cli.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
def index(paths: tuple[Path, ...]) -> None:
    """Build a new generation of the index from files and folders."""
    settings = Settings.from_env()
    report = _build(settings, paths)
    if not report.documents:
        sys.exit(1)


@asynccontextmanager
async def _open_keys() -> AsyncIterator[KeyStore]:
    """The store of the settings, or of the `ragrelay up` that runs over this index."""
    settings = Settings.from_env()
    is_embedded = not settings.engine_addresses()
    index_dir = Path(settings.retrieval.index_dir)
    url = ledger_socket(index_dir) if is_embedded else str(settings.ledger.redis_url)
    async with open_key_store(url, settings.auth.key_pepper.encode()) as store:
        yield store


for command in (evaluation, cache, keys_group(_open_keys), models, selftest):
    cli.add_command(command)


def _serve(prepare: Callable[[Settings], None]) -> None:
    settings = Settings.from_env()

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
    from retrieval.index import current_generation

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
    from retrieval.build import build_index

    with Bar() as bar:
        embedder = load_all_cores(settings)
        try:
            report = build_index(
                Path(settings.retrieval.index_dir),
                paths,
                embedder,
                on_progress=bar.show,
                language=settings.retrieval.language,
            )
        finally:
            embedder.close()
    for skipped in report.skipped[:SHOWN_SKIPS]:
        click.echo(f"skipped {ascii(str(skipped.path))[1:-1]}: {skipped.reason}", err=True)
    if len(report.skipped) > SHOWN_SKIPS:
        click.echo(f"… and {len(report.skipped) - SHOWN_SKIPS} more skipped", err=True)
    state = "unchanged" if report.unchanged else f"built in {report.seconds:.1f} s"
    click.echo(
        f"index {report.generation}: {report.documents} documents, {report.passages} passages, "
        f"{state}"
    )
    return report
