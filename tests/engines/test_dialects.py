"""One answer whatever the engine's dialect, and a prompt cut to what it takes."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.engine import DIALECTS, Exchange, FakeEngine, in_stream
from tests.support.harness import QUESTION, Client, frames, live, run_in, settings_for
from tests.support.waiting import eventually

# One answer, as each dialect says it.
PIECES = ["Paris", " is", " it."]
ALL_THREE = "Is tea water known in the capital?"
"""Every page of the small index has a word of it."""


@contextmanager
def served(kind: str, engine: FakeEngine, index_dir: Path, **groups: dict) -> Iterator[Client]:
    engine.facts.update(DIALECTS[kind].facts)
    settings = settings_for(engine.url, index_dir, engine={"kind": kind}, **groups)
    with live(settings) as (client, _):
        yield client


@pytest.fixture(scope="module", params=DIALECTS)
def spoken(
    request: pytest.FixtureRequest, _engine: FakeEngine, index_dir: Path
) -> Iterator[tuple[str, Client]]:
    with served(request.param, _engine, index_dir) as client:
        yield request.param, client


def test_swapped_engine_gives_the_same_answer(
    spoken: tuple[str, Client], engine: FakeEngine
) -> None:
    kind, client = spoken
    engine.script = in_stream(*DIALECTS[kind].stream(PIECES))
    answered = client.post("/query", QUESTION).json()
    assert answered["answer"] == "Paris is it."
    assert answered["usage"] == {"prompt_tokens": 39, "completion_tokens": 3, "estimated": False}
    assert (answered["engine"], answered["model"]) == (kind, "Qwen/Qwen2.5-3B-Instruct")
    assert answered["finish_reason"] == "stop"


def test_dialect_overload_is_429(spoken: tuple[str, Client], engine: FakeEngine) -> None:
    kind, client = spoken
    engine.script = DIALECTS[kind].overloaded
    for path in ("/query", "/query/stream"):
        answered = client.post(path, QUESTION)
        assert (answered.status, answered.error()["code"]) == (429, "engine_overloaded")
        assert "retry-after" in answered.headers


def test_dialect_loading_is_503(spoken: tuple[str, Client], engine: FakeEngine) -> None:
    kind, client = spoken
    if DIALECTS[kind].loading is None:
        pytest.skip(f"{kind} refuses connections while loading: test_errors has that row")
    engine.script = DIALECTS[kind].loading
    answered = client.post("/query", QUESTION)
    assert (answered.status, answered.error()["code"]) == (503, "engine_down")


def test_dialect_failure_after_a_token_is_an_error_event_with_usage(
    spoken: tuple[str, Client], engine: FakeEngine
) -> None:
    kind, client = spoken
    first = DIALECTS[kind].stream(PIECES)[:3]
    engine.script = in_stream(*first, *DIALECTS[kind].broken)
    stream = frames(client.post("/query/stream", QUESTION).body)
    error = stream[-1].data["error"]
    assert (stream[-1].event, error["code"]) == ("error", "engine_error")
    assert error["usage"]["estimated"] is True
    assert error["usage"]["completion_tokens"] == sum(f.event == "token" for f in stream) >= 1


def test_prompt_too_long_is_cut_by_whole_passages(
    spoken: tuple[str, Client], engine: FakeEngine
) -> None:
    kind, client = spoken
    sizes = []

    async def small(exchange: Exchange) -> None:
        content = exchange.call.json()["messages"][-1]["content"]
        sizes.append(content.count("Passage ["))
        if sizes[-1] > 1:
            await DIALECTS[kind].too_long(exchange)
        else:
            await in_stream(*DIALECTS[kind].stream(PIECES))(exchange)

    engine.script = small
    answered = client.post("/query", {"query": ALL_THREE, "top_k": 3}).json()
    assert sizes == [3, 1]
    assert answered["degraded"] == ["cut_prompt"]
    assert len(answered["sources"]) == 3


def test_prompt_too_long_without_passages_is_422(
    spoken: tuple[str, Client], engine: FakeEngine
) -> None:
    kind, client = spoken
    engine.script = DIALECTS[kind].too_long
    answered = client.post("/query", QUESTION)
    assert (answered.status, answered.error()["code"]) == (422, "prompt_too_long")


def test_context_told_by_the_engine_cuts_the_prompt(index_dir: Path, engine: FakeEngine) -> None:
    engine.facts["/props"] = {"default_generation_settings": {"n_ctx": 300}}
    settings = settings_for(engine.url, index_dir)
    with live(settings) as (client, app):
        eventually(lambda: app.service.engines.context_tokens == 300)
        asked = {"query": ALL_THREE, "top_k": 3, "max_tokens": 90}
        answered = client.post("/query", asked).json()
        assert answered["degraded"] == ["cut_prompt"]
        sent = engine.chats[-1].json()["messages"][-1]["content"]
        assert 0 < sent.count("Passage [") < len(answered["sources"])


def test_deadline_near_halves_the_passages(index_dir: Path, engine: FakeEngine) -> None:
    from api.admission.caller import PUBLIC
    from api.admission.door import Admitted
    from api.answering.answer import answer
    from api.answering.context import AnswerContext, Stages
    from api.answering.events import Done, Sources
    from api.http.schemas import QueryRequest
    from api.telemetry.record import Record

    with live(settings_for(engine.url, index_dir)) as (client, app):
        stages: Stages = app.service.stages()
        record = Record(request_id="r", started=time.monotonic())

        async def run() -> list:
            ask = AnswerContext(
                request=QueryRequest(query=ALL_THREE),
                record=record,
                stages=stages,
                admitted=Admitted(caller=PUBLIC, route_class="query"),
                deadline=asyncio.get_running_loop().time() + 0.4 * stages.deadline_s,
            )
            retriever = stages.retriever  # its queue is thread-safe
            assert retriever is app.service.loader.retriever()
            return [event async for event in answer(ask)]

        events = run_in(client, run())
        assert isinstance(events[0], Sources)
        assert len(events[0].sources) == 2
        assert isinstance(events[-1], Done)
        assert events[-1].degraded == ["fewer_passages"]
