"""Open a connection pool to Redis or Valkey."""

from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

REDIS_TIMEOUT_S = 1.0
"""The client's own limit, by the clock; calls are given up before, by `calls.py`."""
CONNECTIONS = 32


def connect(url: str) -> Any:
    """Return a redis client without retries.

    Its pool waits for a connection: redis-py's own refuses beyond its hundredth, which would look
    like a server that is down.
    """
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS,
        timeout=REDIS_TIMEOUT_S,
        socket_timeout=REDIS_TIMEOUT_S,
        socket_connect_timeout=REDIS_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),  # else one call may take several timeouts
    )
    return redis.Redis.from_pool(pool)
