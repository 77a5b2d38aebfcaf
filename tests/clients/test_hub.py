"""huggingface_hub's InferenceClient against a live server: plain, stream, error, cancel."""

import asyncio
from collections.abc import Iterator
from typing import Any, cast

import pytest
from huggingface_hub import AsyncInferenceClient, ChatCompletionInputStreamOptions, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.support.engine import DONE, FakeEngine, delta, event, saying, sending
from tests.support.harness import Client
from tests.support.waiting import eventually

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
WITH_USAGE = ChatCompletionInputStreamOptions(include_usage=True)
MODEL = "ragrelay"
"""Without it the client asks for a model `dummy`."""


@pytest.fixture
def hub(client: Client) -> Iterator[InferenceClient]:
    with InferenceClient(base_url=f"{client.url}/v1") as hub:
        yield hub


def test_hub_plain_answer(hub: InferenceClient, engine: FakeEngine) -> None:
    engine.script = saying(["Paris", " [1]."])
    output = hub.chat_completion(QUESTION, model=MODEL, max_tokens=50, temperature=0.2)
    assert output.choices[0].message.content == "Paris [1]."
    assert output.usage.total_tokens == 41
    assert output["ragrelay"]["sources"][0]["doc_id"] == "france.md"


@pytest.mark.parametrize("piece", [" is", " is\u2028so", " is\u0085so"])
def test_hub_stream_with_usage(hub: InferenceClient, engine: FakeEngine, piece: str) -> None:
    engine.script = saying(["Paris", piece, " it."])
    chunks = list(
        hub.chat_completion(QUESTION, model=MODEL, stream=True, stream_options=WITH_USAGE)
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == f"Paris{piece} it."
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 3


def test_hub_errors_have_their_status(hub: InferenceClient, engine: FakeEngine) -> None:
    with pytest.raises(HfHubHTTPError) as unknown:
        hub.chat_completion(QUESTION)
    assert unknown.value.response.status_code == 404
    assert "model does not exist" in str(unknown.value)
    engine.script = sending(status=429)
    with pytest.raises(HfHubHTTPError) as overloaded:
        next(iter(hub.chat_completion(QUESTION, model=MODEL, stream=True)))
    assert overloaded.value.response.status_code == 429


def test_hub_error_in_the_stream_is_raised(hub: InferenceClient, engine: FakeEngine) -> None:
    engine.script = sending(delta("Paris"), event({"error": {"message": "CUDA"}}), DONE)
    seen = []
    with pytest.raises(Exception, match="the engine failed"):
        for chunk in hub.chat_completion(QUESTION, model=MODEL, stream=True):
            seen.append(chunk.choices[0].delta.content)
    assert seen == ["", "Paris"]


def test_hub_stream_closed_stops_the_engine(client: Client, engine: FakeEngine) -> None:
    engine.script = saying(["a"] * 400, every=0.05)

    async def run() -> None:
        hub = AsyncInferenceClient(base_url=f"{client.url}/v1")
        stream = await hub.chat_completion(QUESTION, model=MODEL, stream=True)
        await anext(aiter(stream))
        await cast(Any, stream).aclose()
        await hub.close()

    asyncio.run(run())
    eventually(lambda: engine.chats[0].gone_at is not None, within_s=3)
