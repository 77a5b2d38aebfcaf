"""`ragrelay db` and `ragrelay log`, run as commands are run."""

import json
from typing import Any

import pytest

from tests.log.rows import ACME, answered, write
from tests.support.cli import run


def test_tables_go_up_and_down(database_url: str) -> None:
    up = run("db", "upgrade", DATABASE_URL=database_url)
    assert (up.returncode, up.stderr) == (0, "")
    assert run("log", "export", DATABASE_URL=database_url).returncode == 0
    assert run("db", "downgrade", "base", DATABASE_URL=database_url).returncode == 0
    unknown = run("db", "downgrade", "v99", DATABASE_URL=database_url)
    assert unknown.returncode == 1 and "v99" in unknown.stderr


def test_export_writes_a_line_for_each_answer(migrated: str, on_database: Any) -> None:
    rows = [answered("a", ago_s=90), answered("b", caller=ACME), answered("old", ago_s=9000)]
    on_database(lambda database: write(database, *rows))
    done = run("log", "export", "--since", "1h", DATABASE_URL=migrated)
    assert [json.loads(line)["request_id"] for line in done.stdout.splitlines()] == ["a", "b"]
    done = run("log", "export", "--tenant", "acme", DATABASE_URL=migrated)
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["tenant"] == "acme" and json.loads(line)["question"] is None


def test_delete_by_request_and_tenant(migrated: str, on_database: Any) -> None:
    rows = [answered("a"), answered("b", caller=ACME), answered("c", caller=ACME)]
    on_database(lambda database: write(database, *rows))
    done = run("log", "delete", "--request-id", "b", DATABASE_URL=migrated)
    assert done.stdout == "deleted 1 answers and 0 judgements\n"
    assert run("log", "delete", "--tenant", "acme", DATABASE_URL=migrated).stdout.startswith(
        "deleted 1 "
    )
    assert "".join(run("log", "export", DATABASE_URL=migrated).stdout).count("\n") == 1
    assert run("log", "delete", DATABASE_URL=migrated).returncode == 2


@pytest.mark.parametrize(
    ("database_url", "code", "says"),
    [
        ("off", 2, "off, there is no log"),
        ("mysql://x/y", 2, "DATABASE_URL: must begin with postgresql://"),
        ("postgresql://u:secret@127.0.0.1:1/x", 1, "does not answer"),
    ],
    ids=["off", "foreign", "down"],
)
def test_database_that_is_not_there_is_one_line(database_url: str, code: int, says: str) -> None:
    done = run("log", "export", DATABASE_URL=database_url)
    assert done.returncode == code
    assert says in done.stderr and "secret" not in done.stderr
    assert "Traceback" not in done.stderr
