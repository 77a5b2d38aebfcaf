"""`ragrelay ask`, `chat` and `status`: question a running server, here or elsewhere."""

import json
from collections.abc import Iterator

import click

from api.cli.client import Fields, NotAnswered, Server, shown
from api.cli.options import server_options

MAX_TURNS = 20
MAX_TURN_CHARS = 8000
MAX_HISTORY_BYTES = 40_000
"""Under the 64 KB of a request, with the question."""
QUOTE_CHARS = 100


@click.command()
@click.argument("question")
@click.option("--json", "as_json", is_flag=True, help="Print what POST /query returns")
@server_options
def ask(question: str, as_json: bool, url: str, key: str) -> None:
    """Ask QUESTION; print the answer as it comes, then its sources."""
    server = Server(url, key)
    if as_json:
        click.echo(json.dumps(server.ask({"query": question})))
    else:
        _show_answer(server.stream({"query": question}))


@click.command()
@server_options
def chat(url: str, key: str) -> None:
    """Ask questions in turn; each may refer to those before.

    Ctrl-C stops an answer, Ctrl-D ends the chat.
    """
    server = Server(url, key)
    history: list[dict[str, str]] = []
    while True:
        try:
            question = input("> ")
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo()
            continue
        if not question.strip():
            continue
        try:
            answer = _show_answer(server.stream({"query": question, "history": history}))
        except KeyboardInterrupt:
            click.echo("\n(stopped)")
        except NotAnswered as error:
            click.echo(f"\n{error.message}", err=True)
        except click.UsageError as error:
            click.echo(error.message, err=True)
        else:
            history = _bounded([*history, _turn("user", question), _turn("assistant", answer)])


@click.command()
@server_options
def status(url: str, key: str) -> None:
    """Show the health of a server and what is left of its budgets."""
    server = Server(url, key)
    for line in _stats_lines(server.call("GET", "/health/stats")):
        click.echo(shown(line))
    try:
        budget = server.call("GET", "/budget")
    except NotAnswered as error:
        click.echo(f"budget: {error.message}")
        return
    for line in _budget_lines(budget):
        click.echo(shown(line))


def _show_answer(events: Iterator[tuple[str, Fields]]) -> str:
    """Print an answer as it comes, then its sources; return its text."""
    tokens: list[str] = []
    sources: list[Fields] = []
    citations: list[Fields] = []
    for name, data in events:
        if name == "token":
            tokens.append(str(data.get("token", "")))
            click.echo(shown(tokens[-1]), nl=False)
        elif name == "sources":
            sources = data.get("sources", [])
        elif name == "citation":
            citations.append(data)
    click.echo()
    for line in _source_lines(sources, citations):
        click.echo(shown(line))
    return "".join(tokens)


def _source_lines(sources: list[Fields], citations: list[Fields]) -> Iterator[str]:
    if sources:
        yield ""
    for source in sources:
        yield f"[{source['n']}] {source['title']} ({source['doc_id']})".replace("\n", " ")
        spans = {
            (span["start"], span["end"])
            for citation in citations
            for span in citation["sources"]
            if span["n"] == source["n"]
        }
        for start, end in sorted(spans):
            quote = source["text"][start - source["start"] : end - source["start"]]
            quote = " ".join(quote.split())
            yield f"    “{quote if len(quote) <= QUOTE_CHARS else quote[:QUOTE_CHARS] + '…'}”"
    n_unsupported = sum(citation["kind"] == "unsupported" for citation in citations)
    if n_unsupported:
        yield f"{n_unsupported} of {len(citations)} sentences stand in none of the sources"


def _turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": shown(text)[:MAX_TURN_CHARS]}


def _bounded(history: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the latest turns that a request may carry, whole pairs of them."""
    while len(history) > MAX_TURNS or len(json.dumps(history)) > MAX_HISTORY_BYTES:
        history = history[2:]
    return history


def _stats_lines(stats: Fields) -> Iterator[str]:
    yield f"{stats['status']}, up for {stats['uptime_s']:.0f} s"
    for name, check in stats["checks"].items():
        ms = f"  {check['ms']:.1f} ms" if check.get("ms") is not None else ""
        detail = f"  {check['detail']}" if check.get("detail") else ""
        yield f"  {name:<14} {check['status']}{ms}{detail}"
    if index := stats.get("index"):
        yield (
            f"index {index['generation']}: {index['documents']} documents, "
            f"{index['passages']} passages"
        )
    for engine in stats["engines"]:
        yield f"engine {engine['name']}: {engine['model']}, {engine['in_flight']} answers under way"
    if cache := stats.get("cache"):
        yield f"cache: {cache['entries']} answers, hits {sum(cache['hits'].values())}"


def _budget_lines(budget: Fields) -> Iterator[str]:
    yield f"budget: circuit {budget['state']}"
    for scope in budget["scopes"]:
        yield (
            f"  {scope['scope']} / {scope['window']}: {scope['spent_eur']:.4f} of "
            f"{scope['limit_eur']:.2f} EUR spent, {scope['reserved_eur']:.4f} held"
        )
