"""No stale answer: sixteen clients ask the same few questions while the index changes and changes.

Every document says which edition it is of, and the scripted engine answers with the editions that
its prompt holds: an answer shows what it was written from.
"""

import asyncio
import itertools
import json
import os
import re
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from api.http.edge import Edge
from retrieval.build.build import build_index
from retrieval.index.generations import rollback
from retrieval.index.index import GENERATIONS
from retrieval.models.embedder import Embedder
from tests.support.caching import cached_in
from tests.support.engine import Exchange, FakeEngine, saying
from tests.support.harness import Client, frames, live, settings_for, text_of
from tests.support.pages import PAGES
from tests.support.servers import RedisServer
from tests.support.waiting import eventually

N_CLIENTS = 16
N_EDITIONS = 17
ANSWERS_BETWEEN = 16
THINKING_S = 0.1
"""Between two questions of a client: the server shares this process with all of them."""
QUESTIONS = (
    "What is the capital of France?",
    "What's the capital city of France?",
    "What is the capital of Peru?",
    "How long is green tea brewed in hot water?",
)


class Answer(NamedTuple):
    status: int
    generation: str
    kind: str
    """Of the cache, or the event that ended a stream too soon."""
    text: str
    sources: str


class Seen(NamedTuple):
    began: int
    """Number of the last swap announced as active when the question went out."""
    ended: int
    """The same when its answer was there."""
    answer: Answer


class Load:
    """Clients in a thread and an event loop of their own; each asks again and again."""

    def __init__(self, client: Client) -> None:
        self.announced = 0
        self.seen: list[Seen] = []
        self._url = client.url
        self._is_over = False
        self._turns = itertools.count()
        self._failures: list[BaseException] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._is_over = True
            self._thread.join(20)
        assert not self._thread.is_alive(), "a client never got its answer"
        assert self._failures == []

    def until_answered(self, more: int) -> None:
        wanted = len(self.seen) + more
        eventually(lambda: len(self.seen) >= wanted, within_s=20)

    async def _run(self) -> None:
        async with aiohttp.ClientSession(self._url) as session:
            clients = [self._ask_on(session) for _ in range(N_CLIENTS)]
            found = await asyncio.gather(*clients, return_exceptions=True)
        self._failures += [failure for failure in found if failure is not None]

    async def _ask_on(self, session: aiohttp.ClientSession) -> None:
        while not self._is_over:
            turn, began = next(self._turns), self.announced
            is_stream = turn // len(QUESTIONS) % 2 == 1
            body = {"query": QUESTIONS[turn % len(QUESTIONS)]}
            async with session.post("/query/stream" if is_stream else "/query", json=body) as got:
                raw = await got.read()
            answer = (_streamed if is_stream else _whole)(got.status, raw)
            self.seen.append(Seen(began, self.announced, answer))
            await asyncio.sleep(THINKING_S)


def _whole(status: int, raw: bytes) -> Answer:
    body = json.loads(raw)
    if status != 200:
        return Answer(status, "", body["error"]["code"], "", "")
    sources = json.dumps(body["sources"])
    kind = body["cache"]["kind"]
    return Answer(status, body["index_generation"], kind, body["answer"], sources)


def _streamed(status: int, raw: bytes) -> Answer:
    if status != 200:
        return _whole(status, raw)
    stream = frames(raw)
    if stream[-1].event != "done":
        return Answer(status, "", stream[-1].event, "", "")
    done, sources = stream[-1].data, json.dumps(stream[0].data)
    return Answer(status, done["index_generation"], done["cache"]["kind"], text_of(stream), sources)


def _editions(text: str) -> set[str]:
    return set(re.findall(r"edition-\d+", text))


async def cite(exchange: Exchange) -> None:
    """Answer with the editions that the prompt holds, late enough for others to join."""
    editions = sorted(_editions(exchange.call.body.decode()))
    await saying(["From ", *editions, "."], first_after=0.05)(exchange)


def build_editions(home: Path, embedder: Embedder) -> dict[str, str]:
    """Build the same pages as many editions, all kept side by side; generation → edition."""
    pages, shelf, generations = home / "pages", home / "shelf", home / "index" / GENERATIONS
    pages.mkdir()
    built: dict[str, str] = {}
    for number in range(N_EDITIONS):
        for name, text in PAGES.items():
            (pages / name).write_text(f"{text} This is edition-{number}.")
        generation = build_index(home / "index", [pages], embedder).generation
        shutil.copytree(generations / generation, shelf / generation)
        built[generation] = f"edition-{number}"
    # Only what was pruned: writing over files that the server has mapped would kill it.
    for generation in built.keys() - set(os.listdir(generations)):
        shutil.copytree(shelf / generation, generations / generation)
    return built


def _turns(generations: list[str]) -> list[str]:
    """The newest, which serves already, then all from the oldest on, at times one step back.

    What an older generation left in the cache is right once more when it serves again.
    """
    turns = [generations[-1]]
    for number, generation in enumerate(generations):
        turns.append(generation)
        if number % 5 == 4:
            turns.append(generations[number - 1])
    return turns


def swap_under(load: Load, app: Edge, index_dir: Path, generations: list[str]) -> None:
    """Let each generation serve in turn, and be asked."""
    for number, generation in enumerate(generations):
        rollback(index_dir, generation)
        eventually(partial(is_in_use, app, generation), within_s=20)
        load.announced = number
        load.until_answered(ANSWERS_BETWEEN)


def is_in_use(app: Edge, generation: str) -> bool:
    index = app.service.loader.index
    return index is not None and index.generation == generation


def test_no_answer_is_older_than_the_index_its_question_met(
    tmp_path: Path, engine: FakeEngine, valkey: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.script = cite
    index_dir = tmp_path / "index"
    cache = cached_in(valkey)
    with live(settings_for(engine.url, index_dir, cache=cache), wait=False) as (client, app):
        loader = app.service.loader
        eventually(lambda: loader.cache_embedder is not None, within_s=60)
        editions = build_editions(tmp_path, loader.cache_embedder)
        served = _turns(list(editions))
        monkeypatch.setattr("api.documents.loader.POLL_S", 0.02)
        eventually(lambda: is_in_use(app, served[0]), within_s=60)
        load = Load(client)
        with load.running():
            swap_under(load, app, index_dir, served)

    assert Counter(seen.answer.status for seen in load.seen).keys() == {200}
    for seen in load.seen:
        # One more than is announced may be active already.
        may_serve = served[seen.began : seen.ended + 2]
        assert seen.answer.generation in may_serve, seen
        edition = {editions[seen.answer.generation]}
        assert _editions(seen.answer.text) == _editions(seen.answer.sources) == edition, seen
    kinds = Counter(seen.answer.kind for seen in load.seen)
    assert kinds.keys() == {"none", "exact", "semantic", "coalesced"}
    assert kinds["none"] >= len(served) >= 20
