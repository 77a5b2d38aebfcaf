"""Where the commands that talk to a server take its key from."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.settings.types import Secret
from tests.support.cli import run
from tests.support.engine import FakeEngine
from tests.support.harness import Client, live, settings_for

KEY = "canary-key-0123456789"
OTHER = "another-key-0123456789"
QUESTION = "What is the capital of France?"
ANSWER = {"text": "Paris", "answer_start": 0}


@pytest.fixture(scope="module")
def locked(_engine: FakeEngine, index_dir: Path) -> Iterator[Client]:
    auth = {"enabled": True, "api_key": Secret(KEY)}
    with live(settings_for(_engine.url, index_dir, auth=auth)) as (client, _):
        yield client


def code(client: Client, *arguments: str, **variables: str) -> int:
    """Return the exit code of a command that needs a key."""
    done = run("documents", "list", "--url", client.url, *arguments, **variables)
    assert (done.returncode == 0) == ("unauthorized" not in done.stderr), done.stderr
    return done.returncode


def test_key_is_the_options_then_ragrelays_then_the_servers(locked: Client, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert code(locked) == 1
    assert code(locked, "--key", KEY, RAGRELAY_API_KEY=OTHER) == 0
    assert code(locked, RAGRELAY_API_KEY=KEY, AUTH_API_KEY=OTHER) == 0
    assert code(locked, RAGRELAY_API_KEY=OTHER, AUTH_API_KEY=KEY) == 1
    assert code(locked, RAGRELAY_API_KEY="", AUTH_API_KEY=KEY) == 0
    assert code(locked, AUTH_API_KEY_FILE=str(tmp_path / "key")) == 0


def test_all_commands_that_talk_to_a_server_take_the_key(locked: Client, tmp_path: Path) -> None:
    paragraph = {
        "context": "Paris is the capital of France.",
        "qas": [{"id": "1", "question": QUESTION, "answers": [ANSWER]}],
    }
    squad = {"version": "1", "data": [{"title": "France", "paragraphs": [paragraph]}]}
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    for command in (["ask", QUESTION], ["status"], ["eval", "squad", str(tmp_path / "squad.json")]):
        for variable in ("RAGRELAY_API_KEY", "AUTH_API_KEY"):
            done = run(*command, "--url", locked.url, **{variable: KEY})
            assert done.returncode == 0, done.stderr
            assert "unauthorized" not in done.stdout


def test_settings_that_are_wrong_keep_nobody_from_asking(locked: Client) -> None:
    assert code(locked, RAGRELAY_API_KEY=KEY, API_PORT="many") == 0
    assert code(locked, AUTH_API_KEY=KEY, API_PORT="many") == 0
    assert code(locked, API_PORT="many") == 1
