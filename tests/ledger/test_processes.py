"""Several processes on one ledger, and one that is killed."""

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from api.ledger.ledger import Ledger
from tests.ledger.ledgers import amounts, run
from tests.ledger.spender import HELD, N_HOLDS, SCOPES
from tests.support.servers import RedisServer

ROOT = Path(__file__).parents[2]


async def start(server: RedisServer, how: str) -> Process:
    command = [sys.executable, "-m", "tests.ledger.spender", str(server.socket), how]
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=PIPE)


def test_ledger_of_four_processes_is_never_overrun(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        processes = [await start(server, "spend") for _ in range(4)]
        answers = asyncio.gather(*(process.communicate() for process in processes))
        n_looks = 0
        while not answers.done():
            for state in await ledger.state(SCOPES):
                assert state.spent + state.reserved <= state.limit
                assert min(state.spent, state.reserved) >= 0
                n_looks += 1
            await asyncio.sleep(0.005)
        told = [[int(word) for word in out.split()] for out, _ in await answers]
        assert n_looks > 10
        assert [dropped for _, dropped in told] == [0] * 4
        for scope in SCOPES:
            spent, reserved = await amounts(ledger, scope)
            assert (spent, reserved) == (sum(settled for settled, _ in told), 0)
            assert spent <= 15_000

    run(server, scenario)


def test_process_killed_with_open_holds_has_spent_them_after_one_lease(server: RedisServer) -> None:
    async def scenario(ledger: Ledger) -> None:
        process = await start(server, "hold")
        assert process.stdout is not None
        assert await process.stdout.readline() == b"held\n"
        process.kill()
        await process.wait()
        deadline = time.monotonic() + 20
        while (found := await amounts(ledger, SCOPES[0]))[1]:
            assert sum(found) == N_HOLDS * HELD
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.02)
        for scope in SCOPES:
            assert await amounts(ledger, scope) == (N_HOLDS * HELD, 0)

    run(server, scenario)
