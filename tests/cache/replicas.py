"""Two caches over one store."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

from api.cache.answer_cache import AnswerCache
from api.cache.store import Store
from api.stores.breaker import Breaker
from tests.support.servers import RedisServer
from tests.support.waiting import until


@asynccontextmanager
async def replica(valkey: RedisServer, name: str, **options):
    redis = valkey.client(1.0)
    store = Store(redis, name=name, breaker=Breaker("cache", open_s=0.3))
    cache = AnswerCache(threshold=0.92, store=store, **options)
    cache.start()
    try:
        yield cache
    finally:
        await cache.close()
        await redis.aclose()


def with_replicas(valkey: RedisServer, scenario: Callable[..., Awaitable[None]]) -> None:
    async def main() -> None:
        async with replica(valkey, "one") as one, replica(valkey, "two") as two:
            await until(lambda: one._replica._is_synced and two._replica._is_synced)
            await scenario(one, two)

    asyncio.run(main())
