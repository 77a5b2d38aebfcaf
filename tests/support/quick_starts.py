"""Servers of this process without what each would pay for alone: 0.8 s of CPU."""

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from retrieval.models.embedder import Embedder, load_embedder
from retrieval.models.resolve import MINILM


class LentEmbedders:
    """MiniLM, loaded as often as servers run side by side; closing one gives it back."""

    def __init__(self) -> None:
        self._free: dict[tuple[object, ...], list[Embedder]] = {}

    def load(self, model_id: str, **options: Any) -> Embedder:
        if model_id != MINILM:
            return load_embedder(model_id, **options)
        free = self._free.setdefault(tuple(sorted(options.items())), [])
        if free:
            return free.pop()
        embedder = load_embedder(model_id, **options)
        embedder.close = lambda: free.append(embedder)  # type: ignore[method-assign]
        return embedder

    def close(self) -> None:
        for free in self._free.values():
            for embedder in free:
                Embedder.close(embedder)


@contextmanager
def quick_starts() -> Iterator[None]:
    """Lend models, and freeze the heap without a full collection before it."""
    lent = LentEmbedders()
    with ExitStack() as stack:
        stack.callback(lent.close)
        stack.enter_context(patch("api.documents.loader.load_embedder", lent.load))
        stack.enter_context(
            patch("api.documents.loader.gc", SimpleNamespace(collect=int, freeze=gc.freeze))
        )
        yield
