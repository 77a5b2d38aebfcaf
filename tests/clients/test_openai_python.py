"""The `openai` package against a live server: plain, stream, error, cancel."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.support.engine import DONE, FakeEngine, delta, event, saying, sending
from tests.support.harness import Client
from tests.support.waiting import eventually

QUESTION: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of France?"},
]
MODEL = "ragrelay"


@pytest.fixture
def sdk(client: Client) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{client.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


@asynccontextmanager
async def async_sdk(client: Client) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{client.url}/v1", api_key="none", max_retries=0
    ) as sdk:
        yield sdk


def test_openai_plain_answer_is_typed(sdk: openai.OpenAI, engine: FakeEngine) -> None:
    engine.script = saying(["Paris", " [1]."])
    completion = sdk.chat.completions.create(model=MODEL, messages=QUESTION, max_tokens=50)
    (choice,) = completion.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Paris [1].")
    assert choice.finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 41
    assert choice.message.annotations is not None
    (annotation,) = choice.message.annotations
    assert annotation.model_dump()["file_citation"]["file_id"] == "france.md"
    extension = (completion.model_extra or {})["ragrelay"]
    assert extension["sources"][0]["doc_id"] == "france.md"


def test_openai_stream_is_typed_and_counts(sdk: openai.OpenAI, engine: FakeEngine) -> None:
    engine.script = saying(["Paris", " is\u2028", " it."])
    stream = sdk.chat.completions.create(
        model=MODEL, messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "Paris is\u2028 it."
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3
    assert (chunks[-2].model_extra or {})["ragrelay"]["sources"]


def test_openai_stream_helper_builds_the_whole_completion(
    sdk: openai.OpenAI, engine: FakeEngine
) -> None:
    engine.script = saying(["Paris", " [1]."])
    with sdk.chat.completions.stream(model=MODEL, messages=QUESTION) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        completion = stream.get_final_completion()
    assert "".join(pieces) == "Paris [1]."
    assert completion.choices[0].message.content == "Paris [1]."
    assert completion.choices[0].finish_reason == "stop"


def test_openai_conversation_goes_on_with_the_message_it_got(
    sdk: openai.OpenAI, engine: FakeEngine
) -> None:
    first = sdk.chat.completions.create(model=MODEL, messages=QUESTION).choices[0].message
    again = [*QUESTION, first.model_dump(), QUESTION[1]]
    answer = sdk.chat.completions.create(model=MODEL, messages=again)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == "Paris is it."
    assert engine.chats[1].json()["messages"][2]["content"] == "Paris is it."


def test_openai_models_are_listed_and_found(sdk: openai.OpenAI) -> None:
    ids = [model.id for model in sdk.models.list()]
    assert ids == ["ragrelay", "Qwen/Qwen2.5-3B-Instruct"]
    assert [sdk.models.retrieve(id).id for id in ids] == ids


def test_openai_errors_have_their_classes(sdk: openai.OpenAI, engine: FakeEngine) -> None:
    create = sdk.chat.completions.create
    with pytest.raises(openai.NotFoundError) as unknown:
        create(model="gpt-5", messages=QUESTION)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as refused:
        create(model=MODEL, messages=QUESTION, n=2)
    assert (refused.value.param, refused.value.type) == ("n", "invalid_request_error")
    engine.script = sending(status=429)
    with pytest.raises(openai.RateLimitError) as overloaded:
        create(model=MODEL, messages=QUESTION)
    assert int(overloaded.value.response.headers["retry-after"]) >= 1
    engine.script = sending(b"data: oops\n\n")
    with pytest.raises(openai.InternalServerError):
        create(model=MODEL, messages=QUESTION, stream=True)


def test_openai_error_in_the_stream_is_raised(sdk: openai.OpenAI, engine: FakeEngine) -> None:
    engine.script = sending(delta("Paris"), event({"error": {"message": "CUDA"}}), DONE)
    stream = sdk.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
    seen = []
    with pytest.raises(openai.APIError, match="the engine failed") as broken:
        for chunk in stream:
            seen.append(chunk.choices[0].delta.content)
    assert seen == ["", "Paris"]
    assert broken.value.code == "engine_error"


def test_openai_retries_what_is_worth_it(client: Client, engine: FakeEngine) -> None:
    calls = 0

    async def script(exchange) -> None:
        nonlocal calls
        calls += 1
        await (saying() if calls > 1 else sending(status=429))(exchange)

    engine.script = script
    with openai.OpenAI(base_url=f"{client.url}/v1", api_key="none", max_retries=2) as sdk:
        answer = sdk.chat.completions.create(model=MODEL, messages=QUESTION)
    assert answer.choices[0].message.content == "Paris is it."
    assert calls == 2


def test_openai_stream_closed_stops_the_engine(sdk: openai.OpenAI, engine: FakeEngine) -> None:
    engine.script = saying(["a"] * 400, every=0.05)
    stream = sdk.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
    next(iter(stream))
    stream.close()
    eventually(lambda: engine.chats[0].gone_at is not None, within_s=3)


def test_openai_async_stream_and_cancelled_task(client: Client, engine: FakeEngine) -> None:
    async def run() -> str:
        async with async_sdk(client) as sdk:
            stream = await sdk.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
            text = ""
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
            engine.script = saying(["a"] * 400, every=0.05)
            plain = asyncio.create_task(sdk.chat.completions.create(model=MODEL, messages=QUESTION))
            await asyncio.to_thread(eventually, lambda: len(engine.chats) == 2)
            plain.cancel()
            with pytest.raises(asyncio.CancelledError):
                await plain
            return text

    assert asyncio.run(run()) == "Paris is it."
    eventually(lambda: engine.chats[1].gone_at is not None, within_s=3)
