"""`ragrelay keys`: what it prints, what it keeps, how it fails."""

import asyncio
import json
from contextlib import asynccontextmanager

import click
import pytest
from click.testing import CliRunner, Result

from api.admission.caller import KeyBudget, Limit, LimitOverride
from api.admission.door import Rules
from api.admission.keys import KeyRecord, KeySpec, read_api_key
from api.cli.keys import keys_group, open_key_store
from api.errors import Unauthorized
from tests.admission.doors import PEPPER, ask, opened
from tests.support.servers import RedisServer


class Cli:
    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.group: click.Group = keys_group(lambda: open_key_store(server.url, PEPPER))

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(self.group, arguments)

    def created(self, *arguments: str) -> str:
        """Return the text of a new key."""
        done = self("create", "--name", "Anna", *arguments)
        assert done.exit_code == 0, done.output
        (text,) = done.stdout.splitlines()
        return text

    def records(self) -> list[dict]:
        return [json.loads(line) for line in self("list", "--json").stdout.splitlines()]

    def record(self, id: str) -> KeyRecord:
        async def main() -> KeyRecord | None:
            async with open_key_store(self.server.url, PEPPER) as store:
                return await store.get(id)

        return asyncio.run(main())

    def admits(self, text: str) -> bool:
        async def main() -> bool:
            async with opened(self.server, Rules(limits={"query": Limit(100)})) as (door, _):
                try:
                    await ask(door, text)
                except Unauthorized:
                    return False
                return True

        return asyncio.run(main())


@pytest.fixture
def cli(ledger_server: RedisServer) -> Cli:
    return Cli(ledger_server)


def test_create_prints_the_key_once_and_it_is_admitted(cli: Cli) -> None:
    text = cli.created()
    key = read_api_key(text)
    assert cli.admits(text)
    listed = cli("list").output + cli("list", "--json").output
    assert key.id in listed and "Anna" in listed
    assert key.secret not in listed and text not in listed
    assert cli.record(key.id).digests[0].digest not in listed


def test_create_options_become_what_the_key_may(cli: Cli) -> None:
    text = cli.created(
        "--scope", "ingest", "--scope", "admin", "--tenant", "acme", "--group", "g1",
        "--group", "g2", "--budget", "day=1.50", "--budget", "month=20", "--limit", "query=10",
        "--limit", "batch=0", "--token-limit", "query=5000", "--expires", "30d",
    )  # fmt: skip
    record = cli.record(read_api_key(text).id)
    assert (record.scopes, record.tenant) == (frozenset({"ingest", "admin"}), "acme")
    assert record.groups == ("g1", "g2")
    assert record.budgets == (KeyBudget("day", 1_500_000), KeyBudget("month", 20_000_000))
    assert record.limits == (
        LimitOverride(route_class="query", requests=10, tokens=5000),
        LimitOverride(route_class="batch", requests=0),
    )
    assert record.expires_at - record.created_at == pytest.approx(30 * 86_400, abs=60)


def test_create_without_options_may_query_alone(cli: Cli) -> None:
    record = cli.record(read_api_key(cli.created()).id)
    assert (record.scopes, record.tenant, record.expires_at) == (
        frozenset({"query"}),
        "public",
        None,
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--name"),
        (["--name", ""], "name"),
        (["--name", "a\nb"], "name"),
        (["--name", "n", "--scope", "root"], "root"),
        (["--name", "n", "--tenant", "a b"], "tenant"),
        (["--name", "n", "--group", ""], "groups"),
        (["--name", "n", "--budget", "day"], "day=1.50"),
        (["--name", "n", "--budget", "week=1"], "day=1.50"),
        (["--name", "n", "--budget", "day=-1"], "day=1.50"),
        (["--name", "n", "--budget", "day=nan"], "day=1.50"),
        (["--name", "n", "--budget", "day=Infinity"], "day=1.50"),
        (["--name", "n", "--budget", "day=0.0000001"], "day=1.50"),
        (["--name", "n", "--budget", "day=1e30"], "day=1.50"),
        (["--name", "n", "--limit", "query"], "classes: query"),
        (["--name", "n", "--limit", "all=5"], "classes: query"),
        (["--name", "n", "--limit", "query=-5"], "classes: query"),
        (["--name", "n", "--limit", "query=10000001"], "at most"),
        (["--name", "n", "--expires", "soon"], "30d"),
        (["--name", "n", "--expires", "-1d"], "30d"),
        (["--name", "n", "--expires", "999999w"], "expires_at"),
    ],
)
def test_create_wrong_usage_is_exit_code_2_and_makes_no_key(
    cli: Cli, arguments: list[str], says: str
) -> None:
    done = cli("create", *arguments)
    assert done.exit_code == 2
    assert says in done.stderr and done.stdout == ""
    assert "Traceback" not in done.output
    assert cli.records() == []


def test_list_tells_the_state_of_each(cli: Cli) -> None:
    active, rotating, revoked = [read_api_key(cli.created()).id for _ in range(3)]
    expired = read_api_key(cli.created("--expires", "0s")).id
    cli("rotate", rotating, "--grace", "1h")
    cli("revoke", revoked)
    states = {record["id"]: record["state"] for record in cli.records()}
    assert states == {
        active: "active", rotating: "active", revoked: "revoked", expired: "expired",
    }  # fmt: skip
    rotates = {r["id"]: r["rotates_until"] for r in cli.records() if r["rotates_until"]}
    assert list(rotates) == [rotating]
    table = cli("list").stdout.splitlines()
    assert len(table) == 5 and table[0].startswith("ID")


def test_list_goes_over_pages(cli: Cli) -> None:
    async def main() -> list[str]:
        async with opened(cli.server) as (_, keys):
            return [(await keys.create(KeySpec(name="n"))).key.id for _ in range(250)]

    ids = asyncio.run(main())
    assert [record["id"] for record in cli.records()] == ids


def test_rotate_prints_another_key_and_keeps_the_old_one_for_the_grace(cli: Cli) -> None:
    old = cli.created()
    id = read_api_key(old).id
    new = cli("rotate", id, "--grace", "1h").stdout.strip()
    assert read_api_key(new).id == id and new != old
    assert cli.admits(new) and cli.admits(old)
    newest = cli("rotate", id).stdout.strip()
    assert cli.admits(newest)
    assert not cli.admits(new) and not cli.admits(old)


def test_revoke_ends_the_key(cli: Cli) -> None:
    text = cli.created()
    done = cli("revoke", read_api_key(text).id)
    assert (done.exit_code, done.stdout) == (0, f"revoked {read_api_key(text).id} (Anna)\n")
    assert not cli.admits(text)


@pytest.mark.parametrize("command", ["rotate", "revoke"])
@pytest.mark.parametrize("id", ["a" * 10, "\x1b[31m", "../.."])
def test_key_unknown_is_exit_code_1(cli: Cli, command: str, id: str) -> None:
    done = cli(command, id)
    assert done.exit_code == 1
    assert "there is no key" in done.stderr and "\x1b" not in done.stderr


def test_rotate_grace_too_long_is_exit_code_2(cli: Cli) -> None:
    id = read_api_key(cli.created()).id
    done = cli("rotate", id, "--grace", "99w")
    assert done.exit_code == 2 and "grace" in done.stderr


def test_store_gone_is_exit_code_1_and_does_not_show_its_address(cli: Cli) -> None:
    cli.server.kill()
    for command in (["create", "--name", "n"], ["list"], ["revoke", "a" * 10]):
        done = cli(*command)
        assert done.exit_code == 1
        assert "does not answer" in done.stderr and "CB_REDIS_URL" in done.stderr
        assert str(cli.server.socket) not in done.output


def test_store_refusing_says_so(cli: Cli) -> None:
    @asynccontextmanager
    async def full():
        async with cli.server.client() as redis:
            await redis.config_set("maxmemory", "1")
        async with open_key_store(cli.server.url, PEPPER) as store:
            yield store

    done = CliRunner().invoke(keys_group(full), ["create", "--name", "n"])
    assert done.exit_code == 1 and "refuses" in done.stderr
