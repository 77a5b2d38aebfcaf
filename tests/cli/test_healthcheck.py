"""The image's health check, as Docker runs it, against live servers."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import FakeEngine
from tests.support.harness import Client, live, settings_for
from tests.support.ports import free_port


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "api.cli.healthcheck", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.fixture
def unready(engine: FakeEngine, tmp_path: Path) -> Iterator[Client]:
    """A server without an index."""
    with live(settings_for(engine.url, tmp_path), wait=False) as (client, _):
        yield client


def test_healthcheck_ready_server_exits_0(client: Client) -> None:
    done = check(f"{client.url}/health/ready")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("200 ")


def test_healthcheck_server_without_index_exits_1_and_says_why(unready: Client) -> None:
    done = check(f"{unready.url}/health/ready")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("503 ")
    assert len(done.stdout.splitlines()) == 1


def test_healthcheck_nobody_listens_exits_1_on_one_line() -> None:
    done = check(f"http://127.0.0.1:{free_port()}/health/ready")
    assert (done.returncode, done.stderr) == (1, "")
    assert len(done.stdout.splitlines()) == 1


def test_healthcheck_imports_nothing_but_the_standard_library() -> None:
    """It runs every few seconds: msgspec and settings would double its time."""
    code = (
        "import sys, api.cli.healthcheck; print(sorted(m for m in sys.modules if 'msgspec' in m))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.strip() == "[]", done.stderr
