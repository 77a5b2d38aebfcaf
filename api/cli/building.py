"""What commands that build an index share: the model on all cores, and a progress bar."""

from typing import TYPE_CHECKING

from api.machine import available_cores
from api.settings.env import Settings

if TYPE_CHECKING:
    from retrieval.models.embedder import Embedder


def load_all_cores(settings: Settings) -> "Embedder":
    from retrieval.models.embedder import load_embedder

    return load_embedder(
        settings.retrieval.embedding_model,
        revision=settings.retrieval.embedding_revision or None,
        device=settings.retrieval.device,
        threads=available_cores(),  # nothing is served beside a build: all cores
        backend=settings.retrieval.backend,
    )


class Bar:
    """A progress bar a stage, with rate and time left; silent where stderr is no terminal."""

    def __init__(self) -> None:
        self._stage = ""
        self._bar: object = None

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()  # type: ignore[attr-defined]
            self._bar = None

    def show(self, stage: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if stage != self._stage:
            self._close()
            self._stage = stage
            self._bar = tqdm(desc=stage, total=total or None, unit=" passages", disable=None)
        self._bar.update(done - self._bar.n)  # type: ignore[attr-defined]
