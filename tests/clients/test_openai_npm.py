"""The npm package `openai` on Node against a live server: plain, stream, error, cancel."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import DONE, FakeEngine, delta, event, saying, sending
from tests.support.harness import Client
from tests.support.waiting import eventually

PACKAGE = Path(sys.prefix) / "openai-npm" / "node_modules" / "openai" / "index.mjs"
PROLOGUE = """
const {default: OpenAI} = await import(process.env.PACKAGE);
const sdk = new OpenAI({baseURL: process.env.URL + "/v1", apiKey: "none", maxRetries: 0});
const messages = [{role: "user", content: "What is the capital of France?"}];
const ask = (more) => sdk.chat.completions.create({model: "ragrelay", messages, ...more});
const tell = (found) => console.log(JSON.stringify(found));
"""


def run(client: Client, code: str) -> Any:
    """Run JavaScript with `ask` and `tell` at hand; return what it tells."""
    node = shutil.which("node")
    if node is None or not PACKAGE.exists():
        pytest.skip("node, or the npm package openai, is not installed: make .venv/openai-npm")
    done = subprocess.run(
        [node, "--input-type=module", "-e", PROLOGUE + code],
        env={"PACKAGE": PACKAGE.as_uri(), "URL": client.url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_npm_plain_answer(client: Client, engine: FakeEngine) -> None:
    engine.script = saying(["Paris", " [1]."])
    completion = run(client, "tell(await ask({}));")
    assert completion["choices"][0]["message"]["content"] == "Paris [1]."
    assert completion["usage"]["total_tokens"] == 41
    assert completion["ragrelay"]["sources"][0]["doc_id"] == "france.md"


def test_npm_stream_with_usage(client: Client, engine: FakeEngine) -> None:
    engine.script = saying(["Paris", " is\u2028é", " it."])
    code = """
    const chunks = [];
    const stream = await ask({stream: true, stream_options: {include_usage: true}});
    for await (const chunk of stream) chunks.push(chunk);
    tell(chunks);
    """
    chunks = run(client, code)
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert text == "Paris is\u2028é it."
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] == 3


def test_npm_stream_helper_builds_the_whole_completion(client: Client) -> None:
    code = """
    const runner = sdk.chat.completions.stream({model: "ragrelay", messages});
    tell(await runner.finalContent());
    """
    assert run(client, code) == "Paris is it."


def test_npm_errors_have_their_classes(client: Client, engine: FakeEngine) -> None:
    code = """
    const failures = [];
    for (const more of [{model: "gpt-5"}, {n: 2}, {stream: true, tools: [{}]}])
      await ask(more).catch((e) => failures.push([e.constructor.name, e.status, e.code, e.param]));
    tell(failures);
    """
    assert run(client, code) == [
        ["NotFoundError", 404, "model_not_found", "model"],
        ["BadRequestError", 400, "invalid_value", "n"],
        ["BadRequestError", 400, "invalid_value", "tools"],
    ]


def test_npm_error_in_the_stream_is_thrown(client: Client, engine: FakeEngine) -> None:
    engine.script = sending(delta("Paris"), event({"error": {"message": "CUDA"}}), DONE)
    code = """
    let text = "", failure = null;
    try {
      for await (const chunk of await ask({stream: true})) text += chunk.choices[0].delta.content;
    } catch (e) { failure = e.code; }
    tell([text, failure]);
    """
    assert run(client, code) == ["Paris", "engine_error"]


def test_npm_stream_aborted_stops_the_engine(client: Client, engine: FakeEngine) -> None:
    engine.script = saying(["a"] * 400, every=0.05)
    code = """
    const stream = await ask({stream: true});
    for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
    tell("left");
    """
    assert run(client, code) == "left"
    eventually(lambda: engine.chats[0].gone_at is not None, within_s=3)


def test_npm_models(client: Client) -> None:
    code = """
    const ids = [];
    for await (const model of sdk.models.list()) ids.push(model.id);
    tell([ids, (await sdk.models.retrieve(ids[1])).id]);
    """
    ids, second = run(client, code)
    assert ids[0] == "ragrelay"
    assert second == ids[1]
