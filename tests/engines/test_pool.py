"""Swapping, failing over, cutting to fit and counting: the answer path over scripted engines."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from api.engines.client import Finish, Sampling
from api.engines.pool import Engines, Health
from api.errors import EngineDown, EngineFailed, Invalid, RagError
from tests.support.dialects import DIALECTS, in_stream
from tests.support.fake_engine import DONE, Exchange, FakeEngine, delta, saying, sending
from tests.support.harness import (
    QUESTION,
    Client,
    Stream,
    eventually,
    frames,
    live,
    settings_for,
    text_of,
)

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

    with live(settings_for(engine.url, index_dir)) as (_, app):
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

        events = asyncio.run_coroutine_threadsafe(run(), loop_of(app)).result(20)
        assert isinstance(events[0], Sources)
        assert len(events[0].sources) == 2
        assert isinstance(events[-1], Done)
        assert events[-1].degraded == ["fewer_passages"]


def loop_of(app) -> asyncio.AbstractEventLoop:
    return app.service.engines.all[0]._session._loop


@contextmanager
def several(
    index_dir: Path, n: int = 2, **groups: dict
) -> Iterator[tuple[Client, list[FakeEngine]]]:
    with ExitStack() as stack:
        engines = [stack.enter_context(FakeEngine()) for _ in range(n)]
        urls = ",".join(f"vllm={engine.url}" for engine in engines)
        for engine in engines:
            engine.facts.update(DIALECTS["vllm"].facts)
        settings = settings_for("", index_dir, engine={"kind": "embedded", "urls": urls, "url": ""})
        client, _ = stack.enter_context(live(settings))
        eventually(lambda: all(len(engine.calls) > 0 for engine in engines))
        yield client, engines


async def refuse(exchange: Exchange) -> None:
    """Close before the head."""


async def overloaded(exchange: Exchange) -> None:
    await exchange.json(503, {"error": {"message": "queue full"}})


def test_failover_before_the_first_token_another_engine_answers(index_dir: Path) -> None:
    with several(index_dir) as (client, (first, second)):
        for script in (refuse, overloaded, sending(DONE), sending(b"data: oops\n\n")):
            first.script = script
            second.script = saying(["from the second"])
            stream = frames(client.post("/query/stream", QUESTION).body)
            assert text_of(stream) == "from the second"
            assert stream[-1].data["engine"] in ("vllm", "vllm-2")
        assert client.metric("rag_tokens_total", engine="vllm-2", direction="completion") >= 1


def test_failover_after_the_first_token_is_an_error(index_dir: Path) -> None:
    with several(index_dir) as (client, (first, second)):
        first.script = second.script = sending(delta("Paris"))
        stream = frames(client.post("/query/stream", QUESTION).body)
        assert [frame.event for frame in stream] == ["sources", "token", "error"]
        assert len(first.chats) + len(second.chats) == 1


def test_failover_at_most_one_retry(index_dir: Path) -> None:
    with several(index_dir, 3) as (client, engines):
        for engine in engines:
            engine.script = refuse
        answered = client.post("/query", QUESTION)
        assert (answered.status, answered.error()["code"]) == (503, "engine_down")
        assert sum(len(engine.chats) for engine in engines) == 2


def test_failover_retries_stay_inside_their_budget(index_dir: Path) -> None:
    with several(index_dir) as (client, engines):
        for engine in engines:
            engine.script = refuse
        for _ in range(30):
            client.post("/query", QUESTION)
        asked = sum(len(engine.chats) for engine in engines)
        assert 30 < asked <= 30 + 5 + 30 * 0.1 + 1


def test_failed_engine_is_left_alone_then_probed(index_dir: Path) -> None:
    with several(index_dir) as (client, (first, second)):
        first.script = refuse
        client.post("/query", QUESTION)
        for _ in range(5):
            assert client.post("/query", QUESTION).json()["engine"] == "vllm-2"
        assert len(first.chats) == 1
        first.script = saying(["back"])
        time.sleep(1.3)
        found = {client.post("/query", QUESTION).json()["engine"] for _ in range(3)}
        assert "vllm" in found
        stats = client.get("/health/stats").json()["engines"]
        assert [engine["failures"] for engine in stats] == [0, 0]


def test_load_goes_to_the_least_loaded_engine(index_dir: Path) -> None:
    with several(index_dir) as (client, (first, second)):
        first.script = second.script = saying(["a"] * 40, every=0.05)
        with Stream(client) as one, Stream(client) as two:
            assert one.read().status == two.read().status == 200
            assert (len(first.chats), len(second.chats)) == (1, 1)


def test_pinned_engine_answers_and_is_not_replaced(index_dir: Path) -> None:
    with several(index_dir) as (client, (first, second)):
        for _ in range(3):
            answered = client.post("/query", QUESTION, {"X-Engine": "vllm-2"})
            assert answered.json()["engine"] == "vllm-2"
        assert first.chats == []
        second.script = refuse
        assert client.post("/query", QUESTION, {"X-Engine": "vllm-2"}).status == 503
        assert first.chats == []
        answered = client.post("/query", QUESTION, {"X-Engine": "gpt"})
        assert (answered.status, answered.error()["code"]) == (422, "invalid")


def test_one_engine_down_stays_healthy_overall(index_dir: Path) -> None:
    with several(index_dir) as (client, (first, second)):
        first.facts_status = 500
        health = client.get("/health/ready").json()
        assert health["checks"]["engine"]["status"] == "ok"
        assert client.metric("rag_engine_up", engine="vllm") == 0
        assert client.metric("rag_engine_up", engine="vllm-2") == 1


def test_health_back_off_doubles_and_is_bounded() -> None:
    health, pauses = Health(), []
    for _ in range(9):
        health.fail(0.0)
        pauses.append(health.closed_until)
    assert 0.75 <= pauses[0] <= 1.25
    assert 1.5 <= pauses[1] <= 2.5
    assert max(pauses) <= 75
    health.succeed()
    assert health.is_open(0.0)


def test_health_probe_lets_one_through() -> None:
    health = Health()
    health.fail(0.0)
    assert not health.is_open(0.5)
    assert health.is_open(2.0)
    health.is_probed = True
    assert not health.is_open(2.0)


def test_engines_unknown_name_is_invalid() -> None:
    with pytest.raises(Invalid):
        Engines([])["none"]


class Scripted:
    """An engine of pure values for `Engines` itself."""

    def __init__(self, name: str, *said: str | Finish | RagError) -> None:
        self.name = name
        self.model = "m"
        self.context_tokens = None
        self.in_flight = 0
        self.said = said
        self.asked = 0

    async def stream(self, messages, sampling, *, request_id, deadline):
        self.asked += 1
        for piece in self.said:
            if isinstance(piece, RagError):
                raise piece
            yield piece


def pieces_of(engines: Engines) -> list:
    async def run() -> list:
        sampling = Sampling(max_tokens=1, temperature=0)
        opened = await engines.open([], sampling, request_id="r", deadline=0)
        return [opened.engine.name, opened.first, *[piece async for piece in opened.rest]]

    return asyncio.run(run())


def test_engines_error_of_the_second_is_told() -> None:
    engines = Engines([Scripted("a", EngineDown("a")), Scripted("b", EngineFailed("b"))])
    with pytest.raises(EngineFailed):
        pieces_of(engines)


def test_engines_overload_is_retried_but_not_held_against_the_engine() -> None:
    from api.errors import EngineOverloaded

    finish = Finish("stop", None)
    engines = Engines([Scripted("a", EngineOverloaded("a")), Scripted("b", "x", finish)])
    assert pieces_of(engines) == ["b", "x", finish]
    assert engines.failures("a") == 0
