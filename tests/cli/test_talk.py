"""`ragrelay ask`, `chat` and `status` against a live server, as a user runs them."""

import json
import signal
from pathlib import Path

import pytest

from api.cli.client import shown
from api.cli.talk import MAX_HISTORY_BYTES, MAX_TURNS, _bounded
from tests.support.cli import run, started
from tests.support.engine import DONE, FakeEngine, delta, event, saying, sending
from tests.support.harness import Client, live, settings_for
from tests.support.ports import free_port
from tests.support.waiting import eventually

QUESTION = "What is the capital of France?"


def test_ask_prints_the_answer_and_its_sources_with_what_they_say(
    client: Client, engine: FakeEngine
) -> None:
    engine.script = saying(["Paris is the capital", " of France [1]."])
    done = run("ask", QUESTION, RAGRELAY_URL=client.url)
    assert done.returncode == 0, done.stderr
    answer, _, first, *others = done.stdout.splitlines()
    assert answer == "Paris is the capital of France [1]."
    assert first == "[1] France (france.md)"
    assert others[0].strip() == "“Paris is the capital of France.”"


def test_ask_json_is_the_whole_response(client: Client, engine: FakeEngine) -> None:
    done = run("ask", QUESTION, "--json", "--url", client.url)
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    assert body["answer"] == "Paris is it."
    assert body["sources"] and body["citations"]


def test_ask_says_what_has_no_support(client: Client, engine: FakeEngine) -> None:
    engine.script = saying(["Bananas are yellow."])
    done = run("ask", QUESTION, "--url", client.url)
    assert "1 of 1 sentences stand in none of the sources" in done.stdout


def test_ask_shows_control_characters_and_never_sends_them(
    client: Client, engine: FakeEngine
) -> None:
    engine.script = saying(["\x1b[31mred\x07 \x9b2J \u202eabc\r\nend"])
    done = run("ask", QUESTION, "--url", client.url)
    assert done.returncode == 0
    assert done.stdout.startswith("␛[31mred␇ \\u009b2J \\u202eabc␍\nend\n")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["ask", "no"], 2, "query"),
        (["ask", QUESTION, "--url", "ftp://x"], 2, "not an http address"),
        (["ask", QUESTION, "--url", "http://x:port"], 2, "--url"),
        (["ask", QUESTION, "--key", "ké\n"], 2, "--key"),
        (["ask"], 2, "QUESTION"),
    ],
)
def test_wrong_usage_is_exit_code_2(
    client: Client, arguments: list[str], code: int, said: str
) -> None:
    done = run(*arguments, RAGRELAY_URL=client.url)
    assert done.returncode == code
    assert said in done.stderr and "Traceback" not in done.stderr


def test_no_server_is_one_line_and_exit_code_1() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for command in (["ask", QUESTION], ["ask", QUESTION, "--json"], ["status"]):
        done = run(*command, "--url", url)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert url in line and "refused" in line.lower()


def test_refusal_and_broken_stream_are_one_line_and_exit_code_1(
    client: Client, engine: FakeEngine
) -> None:
    engine.script = sending(status=429)
    refused = run("ask", QUESTION, "--url", client.url)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "engine_overloaded" in refused.stderr and "try again in" in refused.stderr
    engine.script = sending(delta("Par"), event({"error": {"message": "CUDA"}}), DONE)
    broken = run("ask", QUESTION, "--url", client.url)
    assert broken.returncode == 1
    assert broken.stdout == "Par"
    assert "engine_error" in broken.stderr


def test_chat_carries_its_history_and_ends_with_its_input(
    client: Client, engine: FakeEngine
) -> None:
    asked = f"{QUESTION}\n\nno\nWhat lies on the Seine river of France?\n"
    done = run("chat", "--url", client.url, input=asked)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Paris is it.") == 2
    assert "query" in done.stderr  # "no" is too short to ask
    sent = engine.chats[-1].json()["messages"]
    turns = [message["content"] for message in sent if message["role"] != "system"]
    assert turns[:2] == [QUESTION, "Paris is it."]


def test_chat_interrupted_stops_the_answer_and_goes_on(client: Client, engine: FakeEngine) -> None:
    engine.script = saying(["Paris "] * 200, every=0.05)
    with started("chat", "--url", client.url) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(QUESTION.encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.read(8) == b"> Paris "
        process.send_signal(signal.SIGINT)
        eventually(lambda: engine.chats[-1].gone_at is not None, within_s=10)
        engine.script = saying()
        out, errors = process.communicate(QUESTION.encode() + b"\n", timeout=60)
        assert process.returncode == 0, errors
        assert b"(stopped)" in out and b"Paris is it." in out


def test_ask_interrupted_is_exit_code_130(client: Client, engine: FakeEngine) -> None:
    engine.script = saying(["Paris "] * 200, every=0.05)
    with started("ask", QUESTION, "--url", client.url) as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == b"Paris "
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors.strip()) == (130, b"ragrelay: interrupted")


def test_status_shows_parts_and_budgets(client: Client) -> None:
    done = run("status", "--url", client.url)
    assert done.returncode == 0, done.stderr
    assert "index" in done.stdout and "engine" in done.stdout
    assert "budget: circuit closed" in done.stdout


def test_status_works_when_parts_are_down(index_dir: Path, tmp_path: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    settings = settings_for(
        nowhere, tmp_path, ledger={"redis_url": f"redis://127.0.0.1:{free_port()}/0"}
    )
    with live(settings, wait=False) as (client, _):
        eventually(lambda: client.get("/health").status == 200)
        done = run("status", "--url", client.url)
    assert done.returncode == 0, done.stderr
    assert " down" in done.stdout and "budget" in done.stdout


def test_history_is_bounded_to_what_a_request_may_carry() -> None:
    pair = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert len(_bounded(pair * 30)) == MAX_TURNS
    long = [turn | {"content": "é" * 8000} for turn in pair]
    kept = _bounded(long * 10)
    assert len(json.dumps(kept)) <= MAX_HISTORY_BYTES
    assert _bounded([]) == []


def test_shown_leaves_ordinary_text_as_it_is() -> None:
    text = "Zürich\t是 \u05e9\u05dc\u05d5\u05dd 🙂\nline"
    assert shown(text) == text
