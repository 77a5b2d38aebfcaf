"""LangChain's and LlamaIndex's OpenAI chat models against a live server.

Each pulls hundreds of megabytes, so they have an environment of their own: make test-peers-clients
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.engine import FakeEngine, saying
from tests.support.harness import Client

PYTHON = Path(sys.prefix) / "peers-clients" / "bin" / "python"

LANGCHAIN = """
import json, sys
from langchain_openai import ChatOpenAI
model = ChatOpenAI(base_url=sys.argv[1] + "/v1", api_key="none", model="ragrelay", max_retries=0)
"""
LLAMAINDEX = """
import json, sys
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike
model = OpenAILike(
    api_base=sys.argv[1] + "/v1", api_key="none", model="ragrelay", is_chat_model=True,
    max_retries=0,
)
messages = [ChatMessage(role="user", content="What is the capital of France?")]
"""


def run(client: Client, code: str) -> Any:
    """Run Python with the client at hand; return what it prints."""
    if not PYTHON.exists():
        pytest.skip("LangChain and LlamaIndex are not installed: make test-peers-clients")
    done = subprocess.run(
        [PYTHON, "-c", code, client.url], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_langchain_plain(client: Client, engine: FakeEngine) -> None:
    engine.script = saying(["Paris", " [1]."])
    told = run(
        client,
        LANGCHAIN
        + """
said = model.invoke("What is the capital of France?")
print(json.dumps([said.content, said.usage_metadata["total_tokens"]]))
""",
    )
    assert told == ["Paris [1].", 41]


def test_langchain_stream(client: Client, engine: FakeEngine) -> None:
    engine.script = saying(["Paris", " is", " it."])
    told = run(
        client,
        LANGCHAIN
        + """
print(json.dumps([piece.content for piece in model.stream("What is the capital of France?")]))
""",
    )
    assert [piece for piece in told if piece] == ["Paris", " is", " it."]


def test_langchain_history_and_error(client: Client, engine: FakeEngine) -> None:
    told = run(
        client,
        LANGCHAIN
        + """
from openai import BadRequestError
turns = [("human", "What is the capital of Peru?"), ("ai", "Lima."), ("human", "And of France?")]
said = model.invoke(turns)
try:
    model.invoke("x" * 9000)
except BadRequestError as refused:
    print(json.dumps([bool(said.content), refused.status_code, refused.body["code"]]))
""",
    )
    assert told == [True, 400, "invalid_value"]


def test_llamaindex_plain(client: Client, engine: FakeEngine) -> None:
    engine.script = saying(["Paris", " [1]."])
    told = run(client, LLAMAINDEX + "print(json.dumps(model.chat(messages).message.content))")
    assert told == "Paris [1]."


def test_llamaindex_stream(client: Client, engine: FakeEngine) -> None:
    engine.script = saying(["Paris", " is", " it."])
    told = run(
        client,
        LLAMAINDEX + "print(json.dumps([piece.delta for piece in model.stream_chat(messages)]))",
    )
    assert "".join(piece for piece in told if piece) == "Paris is it."
