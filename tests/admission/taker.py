"""One of several processes that take from one bucket: `taker.py SOCKET LIMIT TRIES`.

Prints how many of its tries passed.
"""

import asyncio
import sys

from redis.asyncio import Redis

from api.admission import trip
from api.admission.gcra import Bucket
from api.stores.breaker import Breaker
from api.stores.calls import RedisCalls

NOW_US = 1_750_000_000_000_000


async def main(path: str, limit: int, tries: int) -> int:
    client = Redis(unix_socket_path=path)
    calls = RedisCalls(client, Breaker("ledger"), timeout_s=30.0)
    bucket = Bucket(f"{trip.TAG}:shared", limit, 1)
    print("ready", flush=True)
    sys.stdin.readline()
    taken = [await trip.take(calls, [bucket], now_us=NOW_US) for _ in range(tries)]
    await client.aclose()
    return sum(each.passed for each in taken)


if __name__ == "__main__":
    print(asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
