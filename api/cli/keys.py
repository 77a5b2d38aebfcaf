"""`ragrelay keys`: make, list, rotate and revoke API keys in the ledger's Redis.

Prints a secret once, on stdout alone. Exit codes as in `cli.py`: 1 where the store does not
answer or has no such key, 2 for wrong usage. Whoever adds the group says how to open the store.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
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

if TYPE_CHECKING:
    from api.admission.key_store import Created, KeyStore

TIMEOUT_S = 5.0
"""A person waits longer than a request."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
Window = Literal["hour", "day", "month"]

OpenKeys = Callable[[], AbstractAsyncContextManager["KeyStore"]]
T = TypeVar("T")


@asynccontextmanager
async def open_key_store(url: str, pepper: bytes) -> AsyncIterator["KeyStore"]:
    """`url` of the ledger's Redis; it is not shown in errors, for it may hold a password."""
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


def seconds_of(text: str) -> float:
    """30d, 12h, 15m or 90s."""
    found = re.fullmatch(r"([0-9]{1,6})([smhdw])", text)
    if found is None:
        raise click.BadParameter(f"{text!a} is no duration: write 30d, 12h, 15m or 90s")
    return float(int(found[1]) * UNITS[found[2]])


def budget_of(text: str) -> KeyBudget:
    """day=1.50: EUR a window, to the millionth."""
    window, _, amount = text.partition("=")
    try:
        micro_eur = Decimal(amount) * 1_000_000
        fits = 0 <= micro_eur <= 10**15 and micro_eur == int(micro_eur)
    except (InvalidOperation, ValueError, OverflowError):
        fits = False
    if window not in get_args(Window) or not fits:
        raise click.BadParameter(f"{text!a} is no budget: write hour=0.10, day=1.50 or month=20")
    return KeyBudget(cast(Window, window), int(micro_eur))


def limit_of(text: str) -> tuple[RouteClass, int]:
    """query=10: so many a minute in a route class; 0 is unlimited."""
    name, _, number = text.partition("=")
    if name not in ROUTE_CLASSES or not re.fullmatch(r"[0-9]{1,9}", number):
        classes = ", ".join(ROUTE_CLASSES)
        raise click.BadParameter(f"{text!a} is no limit: write query=10; classes: {classes}")
    if int(number) > MAX_PER_MINUTE:
        raise click.BadParameter(f"{text!a}: {MAX_PER_MINUTE} a minute at most")
    return name, int(number)


def _reading(read: Callable[[str], T]) -> Callable[..., T | tuple[T, ...] | None]:
    """Return the callback of an option whose text, or each of its texts, `read` understands."""

    def callback(
        ctx: click.Context, param: click.Parameter, value: str | tuple[str, ...] | None
    ) -> T | tuple[T, ...] | None:
        if isinstance(value, tuple):
            return tuple(read(each) for each in value)
        return None if value is None else read(value)

    return callback


def keys_group(open_keys: OpenKeys) -> click.Group:
    """Return the commands of `ragrelay keys`."""

    def on_store(use: Callable[["KeyStore"], Awaitable[T]]) -> T:
        return asyncio.run(_use(open_keys, use))

    @click.group()
    def keys() -> None:
        """API keys: who may ask, for how much, how often."""

    @keys.command()
    @click.option("--name", required=True, help="Whose key it is, for the list")
    @click.option(
        "--scope",
        "scopes",
        multiple=True,
        type=click.Choice(sorted(ALL_SCOPES)),
        default=("query",),
        show_default=True,
        help="What it may; give one or several",
    )
    @click.option("--tenant", default="public", show_default=True, help="Whose documents it sees")
    @click.option("--group", "groups", multiple=True, help="Further groups of documents it sees")
    @click.option(
        "--budget",
        "budgets",
        multiple=True,
        callback=_reading(budget_of),
        help="As day=1.50, in EUR",
    )
    @click.option(
        "--limit", "requests", multiple=True, callback=_reading(limit_of), help="Requests a minute"
    )
    @click.option(
        "--token-limit",
        "tokens",
        multiple=True,
        callback=_reading(limit_of),
        help="Tokens a minute",
    )
    @click.option(
        "--expires",
        "expires_s",
        callback=_reading(seconds_of),
        help="Ends after, as 30d; else never",
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
        """Make a key and print it: it cannot be shown again."""
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
    @click.option("--json", "as_json", is_flag=True, help="One JSON object a line")
    def list_keys(as_json: bool) -> None:
        """List all keys, ended ones too; none can be read back."""
        records, now_s = on_store(_all_records)
        lines = _json_lines(records, now_s) if as_json else _table(records, now_s)
        for line in lines:
            click.echo(line)

    @keys.command()
    @click.argument("id")
    @click.option(
        "--grace",
        "grace_s",
        callback=_reading(seconds_of),
        default="0s",
        show_default=True,
        help="The old secret goes on serving so long",
    )
    def rotate(id: str, grace_s: float) -> None:
        """Give the key ID another secret and print it."""
        _show(on_store(lambda store: store.rotate(id, grace_s=grace_s)))

    @keys.command()
    @click.argument("id")
    def revoke(id: str) -> None:
        """End the key ID from the next request on."""
        record = on_store(lambda store: store.revoke(id))
        click.echo(f"revoked {record.id} ({record.name})")

    return keys


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
