"""Chats in OpenAI's words, and how to read their streams."""

import json
from typing import Any

PATH = "/v1/chat/completions"
MODEL = "Qwen/Qwen2.5-3B-Instruct"
QUESTION = {"role": "user", "content": "What is the capital of France?"}
CHAT = {"model": "ragrelay", "messages": [QUESTION]}
STREAM = CHAT | {"stream": True}
JSON = {"Content-Type": "application/json"}


def chunks(body: bytes) -> list[Any]:
    """Parse a whole stream; `[DONE]` becomes None, comments are dropped."""
    parts = [part for part in body.decode().split("\n\n") if part and not part.startswith(":")]
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    datas = [part.removeprefix("data: ") for part in parts]
    return [None if data == "[DONE]" else json.loads(data) for data in datas]


def text_of(stream: list[Any]) -> str:
    found = [chunk["choices"][0]["delta"] for chunk in stream if chunk and chunk["choices"]]
    return "".join(part.get("content") or "" for part in found)
