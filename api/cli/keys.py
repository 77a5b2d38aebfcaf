"""`ragrelay keys`: create, list, rotate and revoke API keys in the ledger's Redis.

A new key is printed once, and nothing else goes to stdout. Exit codes: 1 if the store does not
answer or has no such key, 2 for wrong usage.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, cast, get_args

import click
import msgspec

from api.admission.caller import (
    ALL_SCOPES,
    MAX_PER_MINUTE,
    ROUTE_CLASSES,
    KeyBudget,
    LimitOverride,
    RouteClass,
    Scope,
)
from api.admission.keys import KeyRecord, KeySpec
from api.cli.options import parse_duration
from api.embedded.children import ledger_socket
from api.settings.env import Settings

if TYPE_CHECKING:
    from api.admission.key_store import Created, KeyStore

TIMEOUT_S = 5.0
"""A person at a terminal waits longer than a request does."""
Window = Literal["hour", "day", "month"]

OpenKeys = Callable[[], AbstractAsyncContextManager["KeyStore"]]
T = TypeVar("T")


@asynccontextmanager
async def open_key_store(url: str, pepper: bytes) -> AsyncIterator["KeyStore"]:
    """Open the keys in the ledger's Redis. Errors do not show `url`: it may hold a password."""
    import redis.asyncio as redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    from api.admission.key_store import KeyStore
    from api.stores.breaker import Breaker
    from api.stores.calls import RedisCalls

    client = redis.Redis.from_url(
        url,
        socket_timeout=TIMEOUT_S,
        socket_connect_timeout=TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )
    try:
        calls = RedisCalls(client, Breaker("redis_ledger"), timeout_s=TIMEOUT_S)
        yield KeyStore(calls, pepper=pepper)
    finally:
        await client.aclose()


def parse_budget(text: str) -> KeyBudget:
    """Read day=1.50: EUR a window, at most six decimals. Raises BadParameter."""
    window, _, amount = text.partition("=")
    try:
        micro_eur = Decimal(amount) * 1_000_000
        fits = 0 <= micro_eur <= 10**15 and micro_eur == int(micro_eur)
    except (InvalidOperation, ValueError, OverflowError):
        fits = False
    if window not in get_args(Window) or not fits:
        raise click.BadParameter(f"{text!a} is not a budget: write hour=0.10, day=1.50 or month=20")
    return KeyBudget(cast(Window, window), int(micro_eur))


def parse_limit(text: str) -> tuple[RouteClass, int]:
    """Read query=10: a route class and how many a minute, 0: no limit. Raises BadParameter."""
    name, _, number = text.partition("=")
    if name not in ROUTE_CLASSES or not re.fullmatch(r"[0-9]{1,9}", number):
        classes = ", ".join(ROUTE_CLASSES)
        raise click.BadParameter(f"{text!a} is not a limit: write query=10; classes: {classes}")
    if int(number) > MAX_PER_MINUTE:
        raise click.BadParameter(f"{text!a}: {MAX_PER_MINUTE} a minute at most")
    return name, int(number)


def keys_group(open_keys: OpenKeys) -> click.Group:
    """Return the commands of `ragrelay keys` on the store that `open_keys` opens."""

    def on_store(use: Callable[["KeyStore"], Awaitable[T]]) -> T:
        return asyncio.run(_use(open_keys, use))

    @click.group()
    def keys() -> None:
        """Create, list, rotate and revoke API keys."""

    @keys.command()
    @click.option("--name", required=True, help="A name for the key, shown in the list")
    @click.option(
        "--scope",
        "scopes",
        multiple=True,
        type=click.Choice(sorted(ALL_SCOPES)),
        default=("query",),
        show_default=True,
        help="What the key may do; repeatable",
    )
    @click.option(
        "--tenant", default="public", show_default=True, help="Tenant whose documents it sees"
    )
    @click.option(
        "--group", "groups", multiple=True, help="Another group of documents it sees; repeatable"
    )
    @click.option(
        "--budget",
        "budgets",
        multiple=True,
        type=parse_budget,
        metavar="WINDOW=EUR",
        help="Most it may spend, as day=1.50; repeatable",
    )
    @click.option(
        "--limit",
        "requests",
        multiple=True,
        type=parse_limit,
        metavar="CLASS=NUMBER",
        help="Requests a minute, as query=10; repeatable",
    )
    @click.option(
        "--token-limit",
        "tokens",
        multiple=True,
        type=parse_limit,
        metavar="CLASS=NUMBER",
        help="Tokens a minute, as query=5000; repeatable",
    )
    @click.option(
        "--expires",
        "expires_s",
        type=parse_duration,
        metavar="DURATION",
        help="How long it is valid, as 30d; without this it never expires",
    )
    def create(
        name: str,
        scopes: tuple[Scope, ...],
        tenant: str,
        groups: tuple[str, ...],
        budgets: tuple[KeyBudget, ...],
        requests: tuple[tuple[RouteClass, int], ...],
        tokens: tuple[tuple[RouteClass, int], ...],
        expires_s: float | None,
    ) -> None:
        """Create a key and print it; it cannot be shown again."""
        spec = KeySpec(
            name=name,
            scopes=frozenset(scopes),
            tenant=tenant,
            groups=groups,
            budgets=budgets,
            limits=_overrides(dict(requests), dict(tokens)),
            expires_at=None if expires_s is None else time.time() + expires_s,
        )
        _show(on_store(lambda store: store.create(spec)))

    @keys.command(name="list")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line")
    def list_keys(as_json: bool) -> None:
        """List all keys, expired and revoked ones too, without their secrets."""
        records, now_s = on_store(_all_records)
        lines = _json_lines(records, now_s) if as_json else _table(records, now_s)
        for line in lines:
            click.echo(line)

    @keys.command()
    @click.argument("id")
    @click.option(
        "--grace",
        "grace_s",
        type=parse_duration,
        metavar="DURATION",
        default="0s",
        show_default=True,
        help="How long the old secret stays valid",
    )
    def rotate(id: str, grace_s: float) -> None:
        """Give the key ID a new secret and print it."""
        _show(on_store(lambda store: store.rotate(id, grace_s=grace_s)))

    @keys.command()
    @click.argument("id")
    def revoke(id: str) -> None:
        """Revoke the key ID; the next request with it is refused."""
        record = on_store(lambda store: store.revoke(id))
        click.echo(f"revoked {record.id} ({record.name})")

    return keys


@asynccontextmanager
async def open_own_keys() -> AsyncIterator["KeyStore"]:
    """Open the store of the settings, or that of the `ragrelay up` that runs over this index."""
    settings = Settings.from_env()
    is_embedded = not settings.engine_addresses()
    index_dir = Path(settings.retrieval.index_dir)
    url = ledger_socket(index_dir) if is_embedded else str(settings.ledger.redis_url)
    async with open_key_store(url, settings.auth.key_pepper.encode()) as store:
        yield store


async def _use(open_keys: OpenKeys, use: Callable[["KeyStore"], Awaitable[T]]) -> T:
    from api.admission.key_store import KeysFull, UnknownKey
    from api.admission.refusals import KeysDown

    try:
        async with open_keys() as store:
            return await use(store)
    except KeysDown as exc:
        raise click.ClickException(f"{exc}: is CB_REDIS_URL right, and ragrelay up?") from exc
    except (UnknownKey, KeysFull) as exc:
        raise click.ClickException(str(exc)) from exc
    except (ValueError, msgspec.ValidationError) as exc:
        raise click.UsageError(str(exc)) from exc


async def _all_records(store: "KeyStore") -> tuple[list[KeyRecord], float]:
    records: list[KeyRecord] = []
    start: int | None = 0
    while start is not None:
        page = await store.page(start)
        records += page.records
        start = page.next
    return records, await store.now()


def _overrides(
    requests: dict[RouteClass, int], tokens: dict[RouteClass, int]
) -> tuple[LimitOverride, ...]:
    return tuple(
        LimitOverride(route_class=name, requests=requests.get(name), tokens=tokens.get(name))
        for name in ROUTE_CLASSES
        if name in requests or name in tokens
    )


def _show(created: "Created") -> None:
    record = created.record
    click.echo(str(created.key.text()))
    click.echo(f"key {record.id} ({record.name}); it is shown this once, keep it safe", err=True)


def _json_lines(records: Sequence[KeyRecord], now_s: float) -> list[str]:
    shown = []
    for record in records:
        facts = msgspec.to_builtins(record)
        del facts["digests"], facts["version"]
        facts["state"] = record.state(now_s)
        facts["rotates_until"] = record.rotates_until(now_s)
        shown.append(msgspec.json.encode(facts).decode())
    return shown


def _table(records: Sequence[KeyRecord], now_s: float) -> list[str]:
    lines = [f"{'ID':10}  {'STATE':8}  {'CREATED':10}  {'EXPIRES':10}  {'SCOPES':18}  TENANT  NAME"]
    for record in records:
        scopes = ",".join(sorted(record.scopes))
        lines.append(
            f"{record.id:10}  {record.state(now_s):8}  {_day(record.created_at):10}  "
            f"{_day(record.expires_at):10}  {scopes:18}  {record.tenant}  {record.name}"
        )
    return lines


def _day(at: float | None) -> str:
    return "-" if at is None else datetime.fromtimestamp(at, UTC).date().isoformat()
