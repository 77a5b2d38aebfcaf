"""Eight swaps under streams: no error, no mixed answer, nothing left mapped (long: bench.swaps)."""

import asyncio
from pathlib import Path

import aiohttp

from tests.documents.swapping import Answer, Load, cite, memory, publish
from tests.support.documents import alone
from tests.support.engine import FakeEngine
from tests.support.harness import Client
from tests.support.waiting import eventually

SWAPS = 8
DOCUMENTS = 12


async def swap_under_load(client: Client) -> list[Answer]:
    async with aiohttp.ClientSession(client.url) as session:
        load = Load(session)
        for edition in range(1, SWAPS + 1):
            await publish(session, edition, DOCUMENTS)
        return await load.stop()


async def first(client: Client) -> None:
    async with aiohttp.ClientSession(client.url) as session:
        await publish(session, 0, DOCUMENTS)


def test_swaps_under_streams_break_and_mix_nothing(engine: FakeEngine, tmp_path: Path) -> None:
    engine.script = cite
    with alone(engine, tmp_path / "index") as (client, process):
        asyncio.run(first(client))
        eventually(lambda: client.get("/health/ready").status == 200, within_s=60)
        mapped = memory(process.pid)[1]
        answers = asyncio.run(swap_under_load(client))
        eventually(lambda: memory(process.pid)[1] <= mapped, within_s=20)
    assert {answer.status for answer in answers} == {200}
    assert {len(answer.editions) for answer in answers} == {1}
    assert len({edition for answer in answers for edition in answer.editions}) > SWAPS // 2
