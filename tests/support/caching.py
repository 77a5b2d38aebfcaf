"""A live server with the answer cache on, over a real store."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from api.http.edge import Edge
from api.settings.types import Secret
from tests.support.engine import FakeEngine
from tests.support.harness import Client, live, settings_for
from tests.support.servers import RedisServer
from tests.support.waiting import eventually


def cached_in(store: RedisServer) -> dict[str, Any]:
    """Settings of the cache: on, in this store."""
    return {"enabled": True, "redis_url": Secret(store.url)}


@contextmanager
def caching(
    engine: FakeEngine, index_dir: Path, store: RedisServer, **groups: dict[str, Any]
) -> Iterator[tuple[Client, Edge]]:
    """Serve with the cache on, its model loaded."""
    groups["cache"] = cached_in(store) | groups.get("cache", {})
    with live(settings_for(engine.url, index_dir, **groups)) as (client, app):
        eventually(lambda: app.service.loader.cache_embedder is not None, within_s=30)
        yield client, app
