"""`ragrelay`: build an index, serve it, measure it.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings (a taken port is one), 130 interrupted.
"""

import faulthandler
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from api import logs
from api.machine import available_cores
from api.settings import Settings, SettingsError
from retrieval.types import RetrievalError

if TYPE_CHECKING:
    from api.caching.evaluation import Encode
    from retrieval.build import BuildReport
    from retrieval.embedding import Embedder
    from retrieval.evaluation import Qrels, Queries

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


@cli.group(name="eval")
def evaluation() -> None:
    """Measure retrieval on judged questions."""


@evaluation.command(name="squad")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--limit", type=int, help="Only the first N questions")
def eval_squad(path: Path, limit: int | None) -> None:
    """PATH: a file in SQuAD's JSON, .gz or not."""
    from retrieval.evaluation import load_squad

    queries, qrels = load_squad(path)
    _evaluate(path, queries, qrels, limit)


@evaluation.command(name="qrels")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--limit", type=int, help="Only the first N questions")
def eval_qrels(folder: Path, limit: int | None) -> None:
    """FOLDER: corpus.jsonl[.gz], queries.jsonl[.gz] and qrels.tsv."""
    from retrieval.evaluation import load_qrels

    queries, qrels = load_qrels(folder)
    corpus = next(p for p in (folder / "corpus.jsonl", folder / "corpus.jsonl.gz") if p.exists())
    _evaluate(corpus, queries, qrels, limit)


@cli.group()
def cache() -> None:
    """Measure the answer cache on labelled pairs of questions (.jsonl, .gz or not)."""


@cache.command(name="eval")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def cache_eval(files: tuple[Path, ...]) -> None:
    """Print recall and false hits of FILES by category, and the whole curve."""
    from api.caching.evaluation import evaluate_pairs

    with _cache_encoder() as encode:
        click.echo(evaluate_pairs(files, encode).to_table())


@cache.command(name="calibrate")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--target", default=0.025, show_default=True, help="False hits at most")
def cache_calibrate(files: tuple[Path, ...], target: float) -> None:
    """Print the lowest CACHE_SIMILARITY_THRESHOLD that keeps false hits under the target."""
    from api.caching.calibration import calibrate_files

    with _cache_encoder() as encode:
        click.echo(calibrate_files(files, encode, target=target).to_table())


@contextmanager
def _cache_encoder() -> Iterator["Encode"]:
    from retrieval.embedding import load_embedder

    model = Settings.from_env().cache.embedding_model
    embedder = load_embedder(model, threads=available_cores())
    try:
        yield embedder.encode_queries
    finally:
        embedder.close()


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


def _load_embedder(settings: Settings) -> "Embedder":
    from retrieval.embedding import load_embedder

    return load_embedder(
        settings.retrieval.embedding_model,
        revision=settings.retrieval.embedding_revision or None,
        device=settings.retrieval.device,
        threads=available_cores(),  # nothing is served beside a build: all cores
    )


def _build(settings: Settings, paths: tuple[Path, ...]) -> "BuildReport":
    from retrieval.build import build_index

    with _Bar() as bar:
        embedder = _load_embedder(settings)
        try:
            report = build_index(
                Path(settings.retrieval.index_dir), paths, embedder, on_progress=bar.show
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


class _Bar:
    """A progress bar a stage, with rate and time left; silent where stderr is no terminal."""

    def __init__(self) -> None:
        self._stage = ""
        self._bar: object = None

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()  # type: ignore[attr-defined]
            self._bar = None

    def show(self, stage: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if stage != self._stage:
            self._close()
            self._stage = stage
            self._bar = tqdm(desc=stage, total=total or None, unit=" passages", disable=None)
        self._bar.update(done - self._bar.n)  # type: ignore[attr-defined]


def _evaluate(corpus: Path, queries: "Queries", qrels: "Qrels", limit: int | None) -> None:
    """Index `corpus` in a folder of its own, ask every question, print the table."""
    from tempfile import TemporaryDirectory

    from retrieval.build import build_index
    from retrieval.evaluation import evaluate
    from retrieval.index import open_index
    from retrieval.retriever import Retriever

    settings = Settings.from_env()
    if limit is not None:
        queries = dict(list(queries.items())[:limit])
    with TemporaryDirectory(prefix="ragrelay-eval-") as folder, _Bar() as bar:
        embedder = _load_embedder(settings)
        build_index(Path(folder), [corpus], embedder, on_progress=bar.show)
        opened = open_index(Path(folder))
        retriever = Retriever(
            embedder,
            opened,
            fusion=settings.retrieval.fusion,
            sparse_weight=settings.retrieval.sparse_weight,
            min_similarity=settings.retrieval.min_similarity,
        )
        report = evaluate(retriever, queries, qrels)
        opened.close()
        embedder.close()
    click.echo(report.to_table())
