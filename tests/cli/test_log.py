"""`ragrelay db` and `ragrelay log`, run as commands are run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.log.rows import ACME, answered, write

ROOT = Path(__file__).parents[2]


def ragrelay(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from api.cli.main import main; main()", *arguments],
        env={"PATH": os.environ["PATH"], "DATABASE_URL": url},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_tables_go_up_and_down(url: str) -> None:
    up = ragrelay(url, "db", "upgrade")
    assert (up.returncode, up.stderr) == (0, "")
    assert ragrelay(url, "log", "export").returncode == 0
    assert ragrelay(url, "db", "downgrade", "base").returncode == 0
    unknown = ragrelay(url, "db", "downgrade", "v99")
    assert unknown.returncode == 1 and "v99" in unknown.stderr


def test_export_writes_a_line_for_each_answer(migrated: str, run: Any) -> None:
    rows = [answered("a", ago_s=90), answered("b", caller=ACME), answered("old", ago_s=9000)]
    run(lambda database: write(database, *rows))
    done = ragrelay(migrated, "log", "export", "--since", "1h")
    assert [json.loads(line)["request_id"] for line in done.stdout.splitlines()] == ["a", "b"]
    done = ragrelay(migrated, "log", "export", "--tenant", "acme")
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["tenant"] == "acme" and json.loads(line)["question"] is None


def test_delete_by_request_and_tenant(migrated: str, run: Any) -> None:
    rows = [answered("a"), answered("b", caller=ACME), answered("c", caller=ACME)]
    run(lambda database: write(database, *rows))
    done = ragrelay(migrated, "log", "delete", "--request-id", "b")
    assert done.stdout == "deleted 1 answers and 0 judgements\n"
    assert ragrelay(migrated, "log", "delete", "--tenant", "acme").stdout.startswith("deleted 1 ")
    assert "".join(ragrelay(migrated, "log", "export").stdout).count("\n") == 1
    assert ragrelay(migrated, "log", "delete").returncode == 2


@pytest.mark.parametrize(
    ("url", "code", "says"),
    [
        ("off", 2, "off, there is no log"),
        ("mysql://x/y", 2, "DATABASE_URL: must begin with postgresql://"),
        ("postgresql://u:secret@127.0.0.1:1/x", 1, "does not answer"),
    ],
    ids=["off", "foreign", "down"],
)
def test_database_that_is_not_there_is_one_line(url: str, code: int, says: str) -> None:
    done = ragrelay(url, "log", "export")
    assert done.returncode == code
    assert says in done.stderr and "secret" not in done.stderr
    assert "Traceback" not in done.stderr
