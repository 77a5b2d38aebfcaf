"""A process of its own that spends from the ledger: `python -m tests.ledger.spender SOCKET HOW`.

HOW `spend`: reserves and settles until refused, then prints how much it settled.
HOW `hold`: opens 20 leased holds, says so, and waits to be killed.
"""

import asyncio
import random
import sys

from api.ledger.ledger import Ledger
from api.ledger.types import BudgetExhausted, LedgerScope, new_hold_id
from tests.ledger.ledgers import opened
from tests.support.servers import redis_client

SCOPES = [LedgerScope("global", 20_000, "month"), LedgerScope("tenant:acme", 15_000, "month")]
N_HOLDS = 20
HELD = 10
LEASE_S = 1.0


async def spend(ledger: Ledger) -> None:
    settled = 0
    while True:
        amount = random.randint(1, 400)
        try:
            hold = await ledger.reserve(new_hold_id("p"), SCOPES, amount, 30)
        except BudgetExhausted:
            break
        actual = random.randint(0, amount)
        ledger.settle_soon(hold, actual)
        settled += actual
    await ledger.close(20)
    print(settled, ledger.settlements.dropped, flush=True)


async def hold(ledger: Ledger) -> None:
    for _ in range(N_HOLDS):
        await ledger.reserve(new_hold_id("p"), SCOPES, HELD, LEASE_S)
    print("held", flush=True)
    await asyncio.Event().wait()


async def main(socket: str, how: str) -> None:
    async with redis_client(socket) as redis, opened(redis) as ledger:
        await {"spend": spend, "hold": hold}[how](ledger)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
