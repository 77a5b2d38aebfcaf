"""A Redis client that fails on demand, below everything of ours."""

from typing import Any, Literal

from redis.asyncio import Redis
from redis.exceptions import ConnectionError

Mode = Literal["well", "down", "deaf"]


class Lossy:
    """`down` sends nothing; `deaf` sends, and loses the answer."""

    def __init__(self, redis: Redis) -> None:
        self.mode: Mode = "well"
        self.n_lost = 0
        self._redis = redis

    async def evalsha(self, *args: Any) -> Any:
        return await self._send(self._redis.evalsha, args)

    async def eval(self, *args: Any) -> Any:
        return await self._send(self._redis.eval, args)

    async def _send(self, command: Any, args: tuple[Any, ...]) -> Any:
        if self.mode == "down":
            raise ConnectionError
        answer = await command(*args)
        if self.mode == "deaf":
            self.n_lost += 1
            raise ConnectionError
        return answer
