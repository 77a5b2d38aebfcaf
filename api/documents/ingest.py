"""Take documents in and out while serving, and build them into new generations of the index.

Every process takes documents; whichever holds the lock makes generations of them, off the event
loop. Changes of a short window become one generation. A job is done once this process serves the
generation that holds it.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from api.errors import Conflict, IndexNotWritable, NotFound
from api.logs import logger
from retrieval.index.filters import View
from retrieval.library.files import File
from retrieval.library.jobs import Job, find_job, note_trouble, open_jobs, submit
from retrieval.library.library import DocumentTaken, Library
from retrieval.library.publishing import (
    announce,
    build_changes,
    has_changes,
    require_whole,
    serving,
)
from retrieval.library.records import LIBRARY, DocumentRecord
from retrieval.types import (
    Document,
    IndexBusy,
    IndexCorrupt,
    IndexMismatch,
    IndexUnwritable,
    Language,
    QueueFull,
    RetrievalError,
    TextEmbedder,
)

T = TypeVar("T")

POLL_S = 1.0
"""How soon changes of other processes are seen, and those that another failed to build."""
WINDOW_MOST_S = 5.0
BUSY_S = 0.5
PAUSES_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
"""Before a failed build is tried again."""


class Following(Protocol):
    """The part of the loader that this room needs."""

    @property
    def embedder(self) -> TextEmbedder | None: ...
    async def follow(self) -> None: ...


class Stopped(RetrievalError):
    """The process ends: the build is given up, its changes wait for the next one."""


class Ingest:
    def __init__(
        self, index_dir: str | Path, loader: Following, *, window_s: float, language: Language
    ) -> None:
        self._index_dir = Path(index_dir)
        self._loader = loader
        self._window_s = window_s
        self._language = language
        self._library: Library | None = None
        self._changed = asyncio.Event()
        self._progress: tuple[str, int, int] | None = None
        """Of the build that runs here."""
        self._stops = False
        self._building: asyncio.Task[None] | None = None
        self._opening = threading.Lock()

    async def submit(
        self, documents: Sequence[Document], files: Sequence[File], *, view: View, key_id: str
    ) -> Job:
        """Take documents and files; all of it is on disk when this returns.

        Raises Conflict for an id that is someone else's, IndexNotWritable.
        """

        def take(library: Library) -> Job:
            require_whole(library)
            generation = serving(self._index_dir)
            return submit(
                library, documents, files, view=view, key_id=key_id, generation=generation
            )

        job = await self._do(take)
        self._changed.set()
        return job

    async def job(self, id: str) -> Job | None:
        return await self._do(lambda library: find_job(library, id))

    def with_progress(self, job: Job) -> Job:
        """Return the job with how far the build is that runs here."""
        if job.finished_at is not None or self._progress is None:
            return job
        stage, done, total = self._progress
        return msgspec.structs.replace(job, state="running", stage=stage, done=done, total=total)

    async def delete(self, doc_id: str, view: View) -> None:
        """Raises NotFound, Conflict for a document that is not the view's tenant's own."""
        if not await self._do(lambda library: library.delete(doc_id, view)):
            raise NotFound("no such document")
        self._changed.set()

    async def document(self, doc_id: str, view: View) -> tuple[DocumentRecord, str, int]:
        """(facts, text, change number up to which all is built). Raises NotFound."""
        found = await self._do(lambda library: library.document(doc_id, view))
        if found is None:
            raise NotFound("no such document")
        _, built = await self._do(Library.clock)
        return *found, built

    async def documents(
        self, view: View, *, limit: int, after: str, q: str
    ) -> tuple[list[DocumentRecord], int]:
        found = await self._do(
            lambda library: library.documents(view, limit=limit, after=after, q=q)
        )
        _, built = await self._do(Library.clock)
        return found, built

    async def run(self) -> None:
        """Build what changes, until cancelled."""
        failures = 0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._changed.wait()
            try:
                if self._loader.embedder is None or not await self._is_behind():
                    self._changed.clear()
                    continue
                await self._window()
                await self._publish(self._loader.embedder)
                failures = 0
            except IndexBusy:
                await asyncio.sleep(BUSY_S)
            except Exception as exc:  # whatever a model or a disk raises: told, and tried again
                await self._note(exc)
                await asyncio.sleep(PAUSES_S[min(failures, len(PAUSES_S) - 1)])
                failures += 1

    async def close(self) -> None:
        """Give up a build that runs; the old generation serves on."""
        self._stops = True
        if self._building is not None:
            await asyncio.gather(self._building, return_exceptions=True)
        if self._library is not None:
            self._library.close()

    async def _is_behind(self) -> bool:
        """Whether there is something to build; what another process built is followed."""
        if self._library is None and not (self._index_dir / LIBRARY).exists():
            return False
        if await self._do(has_changes):
            return True
        if await self._do(open_jobs):
            await self._follow()
        return False

    async def _window(self) -> None:
        """Wait until no more changes come for a while, but not for ever."""
        loop = asyncio.get_running_loop()
        until = loop.time() + WINDOW_MOST_S
        self._changed.clear()
        while loop.time() < until:
            try:
                async with asyncio.timeout(min(self._window_s, until - loop.time())):
                    await self._changed.wait()
            except TimeoutError:
                return
            self._changed.clear()

    async def _publish(self, embedder: TextEmbedder) -> None:
        def work(library: Library) -> None:
            build_changes(library, embedder, language=self._language, on_progress=self._report)

        self._building = asyncio.create_task(self._do(work))
        try:
            await asyncio.shield(self._building)
        finally:
            self._progress = None
        await self._follow()

    async def _follow(self) -> None:
        """Serve the newest generation, then end its jobs: who sees the end finds the documents."""
        await self._loader.follow()
        await self._do(announce)

    def _report(self, stage: str, done: int, total: int) -> None:
        """Called in the building thread."""
        if self._stops:
            raise Stopped("the process ends")
        self._progress = (stage, done, total)

    async def _note(self, exc: Exception) -> None:
        is_known = isinstance(exc, RetrievalError | IndexNotWritable | OSError)
        reason = str(exc) if is_known else f"a bug of ours: {type(exc).__name__}"
        facts = {"facts": {"reason": reason}}
        logger.error("documents not indexed", exc_info=None if is_known else exc, extra=facts)
        with contextlib.suppress(IndexNotWritable):
            await self._do(lambda library: note_trouble(library, reason))

    async def _do(self, work: Callable[[Library], T]) -> T:
        """In a thread: SQLite waits for the disk, and for other processes.

        Raises Conflict, IndexNotWritable; of IndexBusy and what embedders raise, all as it is.
        """
        try:
            return await asyncio.to_thread(lambda: work(self._opened()))
        except DocumentTaken as exc:
            raise Conflict(str(exc)) from exc
        except (IndexUnwritable, IndexCorrupt, IndexMismatch, QueueFull) as exc:
            raise IndexNotWritable(str(exc)) from exc

    def _opened(self) -> Library:
        with self._opening:
            if self._library is None:
                self._library = Library(self._index_dir)
            return self._library
