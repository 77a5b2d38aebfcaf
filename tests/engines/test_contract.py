"""What ragrelay needs of an engine, asked of every engine there is.

The scripted engine in each dialect, the embedded llama.cpp server, and any real engine by
`make test-engine ENGINE=vllm ENGINE_URL=http://…`.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import msgspec
import pytest

from api.engines.client import Engine, EngineLimits, Finish, Sampling, engine_session
from api.errors import PromptTooLong
from tests.support.engine import DIALECTS, MODEL, Exchange, FakeEngine
from tests.support.ports import free_port
from tests.support.waiting import eventually

LIMITS = EngineLimits(connect_s=3, first_token_s=120, token_s=60)
HELLO = [{"role": "user", "content": "Say hello to the people of Lima in one sentence."}]


T = TypeVar("T")


class Subject(msgspec.Struct):
    """An engine under test; `fake` is None where it is real."""

    kind: str
    url: str
    model: str = MODEL
    api_key: str = ""
    fake: FakeEngine | None = None


def speaking(kind: str, fake: FakeEngine) -> None:
    """Let the scripted engine be one of that kind, within the limits it tells."""
    spoken = DIALECTS[kind]
    fake.facts.update(spoken.facts)

    async def script(exchange: Exchange) -> None:
        asked = exchange.call.json()
        if len(exchange.call.body) > 20_000:
            await spoken.too_long(exchange)
            return
        pieces = ["Hola", ", ", "Lima ", "y ", "Perú", "! "][: asked["max_tokens"]]
        reason = "length" if asked["max_tokens"] <= 6 else "stop"
        await exchange.head()
        for part in spoken.stream(pieces, reason):
            await exchange.send(part)

    fake.script = script


@pytest.fixture(scope="module")
def embedded_url() -> Iterator[str]:
    port = free_port()
    environ = {**os.environ, "RAGRELAY_ENGINE_KEY": "k"}
    process = subprocess.Popen([sys.executable, "-m", "api.embedded.llama", str(port)], env=environ,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


REAL = os.environ.get("TEST_ENGINE", "")
REAL_URL = os.environ.get("TEST_ENGINE_URL", "")


@pytest.fixture(params=[*DIALECTS, "embedded", "given"])
def subject(request: pytest.FixtureRequest, engine: FakeEngine) -> Subject:
    kind = request.param
    if kind == "given":
        if not REAL_URL:
            pytest.skip("no engine given: make test-engine ENGINE=… ENGINE_URL=…")
        key = os.environ.get("TEST_ENGINE_API_KEY", "")
        model = os.environ.get("TEST_ENGINE_MODEL", MODEL)
        return Subject(REAL, REAL_URL.rstrip("/").removesuffix("/v1"), model, key)
    if kind == "embedded":
        return Subject("embedded", request.getfixturevalue("embedded_url"), api_key="k")
    speaking(kind, engine)
    return Subject(kind, engine.url, fake=engine)


class Said(msgspec.Struct):
    pieces: list[str]
    finish: Finish

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def with_engine(subject: Subject, use: Callable[[Engine], Awaitable[T]]) -> T:
    """Run `use(engine)` on a loop of its own, once the engine is up."""

    async def run() -> T:
        async with engine_session() as session:
            engine = Engine(
                session,
                kind=subject.kind,
                url=subject.url,
                model=subject.model,
                api_key=subject.api_key,
                limits=LIMITS,
            )
            for _ in range(600):
                if (await engine.check()).status == "ok":
                    break
                await asyncio.sleep(0.1)
            return await use(engine)

    return asyncio.run(run())


async def say(engine: Engine, messages: list, max_tokens: int = 16, temperature: float = 0) -> Said:
    deadline = asyncio.get_running_loop().time() + 300
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature)
    pieces: list[str] = []
    async for piece in engine.stream(messages, sampling, request_id="r", deadline=deadline):
        if isinstance(piece, Finish):
            return Said(pieces, piece)
        pieces.append(piece)
    raise AssertionError("no Finish")


def test_engine_tells_model_and_context(subject: Subject) -> None:
    async def use(engine: Engine) -> None:
        assert engine.model
        if subject.kind != "openai":
            assert engine.context_tokens is not None
            assert engine.context_tokens >= 1024

    with_engine(subject, use)


def test_engine_answer_ends_with_usage(subject: Subject) -> None:
    said = with_engine(subject, lambda engine: say(engine, HELLO, 64))
    assert said.text.strip()
    assert said.finish.finish_reason in ("stop", "length")
    assert said.finish.usage is not None
    assert said.finish.usage.prompt_tokens > 5
    assert said.finish.usage.completion_tokens >= len(said.pieces) - 1
    assert said.finish.usage.estimated is False


def test_engine_stops_at_max_tokens(subject: Subject) -> None:
    said = with_engine(subject, lambda engine: say(engine, HELLO, 3))
    assert said.finish.finish_reason == "length"
    assert said.finish.usage.completion_tokens <= 3


def test_engine_cold_answers_repeat(subject: Subject) -> None:
    async def use(engine: Engine) -> None:
        first, second = await say(engine, HELLO), await say(engine, HELLO)
        assert first.text == second.text

    with_engine(subject, use)


def test_engine_takes_system_history_and_any_script(subject: Subject) -> None:
    messages = [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "¿Qué es 東京? \u2028 🙂"},
        {"role": "assistant", "content": "東京 is Tokyo."},
        {"role": "user", "content": "And Lima?"},
    ]
    said = with_engine(subject, lambda engine: say(engine, messages, 8))
    assert said.finish.usage.prompt_tokens > 10
    assert "\ufffd" not in said.text[:-1]


def test_engine_prompt_too_long_is_told(subject: Subject) -> None:
    async def use(engine: Engine) -> None:
        context_tokens = engine.context_tokens or 8192
        text = "one two three four five " * context_tokens
        with pytest.raises(PromptTooLong):
            await say(engine, [{"role": "user", "content": text}])

    with_engine(subject, use)


def test_engine_left_stops_and_serves_the_next(subject: Subject) -> None:
    async def use(engine: Engine) -> None:
        deadline = asyncio.get_running_loop().time() + 300
        sampling = Sampling(max_tokens=1024, temperature=1.0)
        for _ in range(4):
            stream = engine.stream(HELLO, sampling, request_id="r", deadline=deadline)
            await anext(stream)
            await stream.aclose()
        assert engine.in_flight == 0
        started = time.monotonic()
        await say(engine, HELLO, 4)
        # Four answers of 1,024 tokens in the way would take far longer on any engine.
        assert time.monotonic() - started < 15

    with_engine(subject, use)


def test_engine_many_at_once_all_answer(subject: Subject) -> None:
    async def use(engine: Engine) -> None:
        answers = await asyncio.gather(*(say(engine, HELLO, 4) for _ in range(8)))
        assert all(answer.finish.usage.completion_tokens > 0 for answer in answers)

    with_engine(subject, use)


@pytest.mark.parametrize("kind", DIALECTS)
def test_fake_in_any_dialect_cut_at_every_byte_is_whole_or_an_error(
    engine: FakeEngine, kind: str
) -> None:
    """A stream that is cut anywhere gives the whole answer or an error, never a shorter answer."""
    whole = b"".join(DIALECTS[kind].stream(["Hola", " Perú\u2028", "!"]))

    async def use(client: Engine) -> None:
        from api.errors import EngineDisconnect

        answers = set()
        for cut in range(0, len(whole), 7):

            async def script(exchange: Exchange, cut: int = cut) -> None:
                await exchange.head()
                await exchange.send(whole[:cut])

            engine.script = script
            try:
                answers.add((await say(client, HELLO)).text)
            except EngineDisconnect:
                pass
        assert answers == {"Hola Perú\u2028!"}

    with_engine(Subject(kind, engine.url, fake=engine), use)


@pytest.mark.parametrize("kind", DIALECTS)
def test_fake_asked_in_its_dialect(engine: FakeEngine, kind: str) -> None:
    speaking(kind, engine)
    with_engine(Subject(kind, engine.url), lambda client: say(client, HELLO))
    asked = engine.chats[-1].json()
    assert ("model" in asked) is DIALECTS[kind].sends_model
    assert "presence_penalty" not in asked
    assert None not in asked.values()
    if kind == "tgi":
        assert asked.get("top_p", 0.5) < 1
        assert asked["max_tokens"] <= 1024
    else:  # engines with sampling defaults of their own: switched off, so that all answer alike
        assert asked["top_p"] == 1.0
        assert 1.0 in (asked.get("repetition_penalty"), asked.get("repeat_penalty"))
    eventually(lambda: all(call.headers.get("x-conversation-id") is None for call in engine.calls))
