"""The one writer behind the routes: windows, trouble, stopping. With a fake model, no server."""

import asyncio
import functools
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from api.documents.ingest import Ingest
from api.errors import Conflict, IndexNotWritable, NotFound
from retrieval.index.filters import View
from retrieval.index.index import list_generations
from retrieval.library.jobs import Job
from retrieval.library.library import Library
from retrieval.library.publishing import has_changes, only_publisher
from retrieval.types import Document, IndexUnwritable
from tests.retrieval.fakes import FakeEmbedder

ACME, BETA = View(tenant="acme"), View(tenant="beta")


def on_a_loop(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: object, **named: object) -> None:
        asyncio.run(test(*args, **named))

    return run


class Loader:
    """Has a model at once; counts how often it is told to follow."""

    def __init__(self, embedder: FakeEmbedder | None = None) -> None:
        self.embedder = embedder or FakeEmbedder()
        self.followed = 0

    async def follow(self) -> None:
        self.followed += 1


class FailsOnce(FakeEmbedder):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.errors = [error]

    def encode_passages(self, texts, *, progress=None):
        if self.errors:
            raise self.errors.pop()
        return super().encode_passages(texts, progress=progress)


class Waits(FakeEmbedder):
    """Does not end before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_end = threading.Event(), threading.Event()

    def encode_passages(self, texts, *, progress=None):
        self.begun.set()
        self.may_end.wait(20)
        return super().encode_passages(texts, progress=progress)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.documents.ingest.POLL_S", 0.05)
    monkeypatch.setattr("api.documents.ingest.BUSY_S", 0.05)
    monkeypatch.setattr("api.documents.ingest.PAUSES_S", (0.3,))


@asynccontextmanager
async def running(
    index_dir: Path, loader: Loader, *, window_s: float = 0.02
) -> AsyncIterator[Ingest]:
    ingest = Ingest(index_dir, loader, window_s=window_s, language="english")
    task = asyncio.create_task(ingest.run())
    try:
        yield ingest
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await ingest.close()


def doc(doc_id: str, text: str = "some text") -> Document:
    return Document(doc_id=doc_id, title="", text=text)


async def submit(ingest: Ingest, *ids: str, view: View = ACME) -> Job:
    return await ingest.submit([doc(id) for id in ids], [], view=view, key_id="k")


async def until(ingest: Ingest, job: Job, **facts: object) -> Job:
    """The job, once it has these facts."""
    async with asyncio.timeout(20):
        while True:
            now = await ingest.job(job.id)
            if now is not None and all(getattr(now, name) == v for name, v in facts.items()):
                return now
            await asyncio.sleep(0.02)


@on_a_loop
async def test_changes_of_a_window_become_one_generation(tmp_path: Path) -> None:
    loader = Loader()
    async with running(tmp_path, loader, window_s=0.4) as ingest:
        jobs = [await submit(ingest, f"d{n}") for n in range(6)]
        ended = [await until(ingest, job, state="done") for job in jobs]
    assert len({job.generation for job in ended}) == 1
    assert loader.followed >= 1


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("secret detail"), "a bug of ours: RuntimeError"),
        (IndexUnwritable("no room"), "no room"),
    ],
)
@on_a_loop
async def test_build_that_fails_is_told_in_the_job_and_tried_again(
    tmp_path: Path, error: Exception, told: str
) -> None:
    async with running(tmp_path, Loader(FailsOnce(error))) as ingest:
        job = await submit(ingest, "a")
        assert (await until(ingest, job, error=told)).finished_at is None
        assert (await until(ingest, job, state="done")).error is None


@on_a_loop
async def test_stopping_gives_the_build_up_and_leaves_its_changes(tmp_path: Path) -> None:
    embedder = Waits()
    async with running(tmp_path, Loader(embedder)) as ingest:
        job = await submit(ingest, "a")
        await asyncio.to_thread(embedder.begun.wait, 20)
        shown = ingest.with_progress(await until(ingest, job, state="running"))
        assert (shown.state, shown.stage in ("split", "embed", "read")) == ("running", True)
        asyncio.get_running_loop().call_later(0.2, embedder.may_end.set)
    assert list_generations(tmp_path) == []
    assert os.listdir(tmp_path / "generations") == []
    library = Library(tmp_path)
    assert has_changes(library)
    library.close()
    async with running(tmp_path, Loader()) as ingest:
        await until(ingest, job, state="done")


@on_a_loop
async def test_what_another_process_builds_is_followed(tmp_path: Path) -> None:
    loader = Loader()
    async with running(tmp_path, loader) as ingest, running(tmp_path, Loader()) as other:
        with only_publisher(tmp_path):
            job = await submit(ingest, "a")
            assert (await ingest.job(job.id)).state == "queued"
        await until(other, job, state="done")
        with pytest.raises(Conflict):
            await submit(other, "a", view=BETA)
        with pytest.raises(NotFound):
            await ingest.delete("a", BETA)
        await ingest.delete("a", ACME)
        with pytest.raises(NotFound):
            await other.document("a", ACME)


@on_a_loop
async def test_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    async with running(tmp_path / "file" / "index", Loader()) as ingest:
        with pytest.raises(IndexNotWritable, match="cannot write"):
            await submit(ingest, "a")
