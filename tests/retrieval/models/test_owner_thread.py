import asyncio
import threading
import time

import pytest

from retrieval.models.owner_thread import OwnerThread
from retrieval.types import QueueFull
from tests.support.waiting import until


class Gate:
    """Squares numbers, one batch at each `open`; keeps the batches it saw."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may_run = threading.Semaphore(0)

    def run(self, numbers: list[int]) -> list[int]:
        self.batches.append(list(numbers))
        assert self.may_run.acquire(timeout=5)
        if -1 in numbers:
            raise ValueError("minus one")
        return [number * number for number in numbers]


def with_owner(scenario, **limits):
    gate = Gate()
    owner: OwnerThread[int, int] = OwnerThread(gate.run, name="test", **limits)
    try:
        asyncio.run(scenario(owner, gate))
    finally:
        gate.may_run.release(100)
        owner.close()


def test_submit_while_busy_waits_and_shares_the_next_batch():
    async def scenario(owner, gate):
        first = asyncio.create_task(owner.submit(1))
        await until(lambda: gate.batches == [[1]])
        others = [asyncio.create_task(owner.submit(number)) for number in range(2, 7)]
        await asyncio.sleep(0.02)
        gate.may_run.release(10)
        assert await asyncio.gather(first, *others) == [1, 4, 9, 16, 25, 36]
        assert gate.batches == [[1], [2, 3, 4, 5], [6]]

    with_owner(scenario, max_batch=4)


def test_submit_cancelled_while_waiting_is_dropped_before_the_batch():
    async def scenario(owner, gate):
        first = asyncio.create_task(owner.submit(1))
        await until(lambda: gate.batches == [[1]])
        leaving, staying = (
            asyncio.create_task(owner.submit(2)),
            asyncio.create_task(owner.submit(3)),
        )
        await asyncio.sleep(0.02)
        leaving.cancel()
        await asyncio.sleep(0)
        gate.may_run.release(10)
        assert await asyncio.gather(first, staying) == [1, 9]
        assert gate.batches == [[1], [3]]

    with_owner(scenario)


def test_submit_model_raises_reaches_its_batch_only():
    async def scenario(owner, gate):
        first = asyncio.create_task(owner.submit(1))
        await until(lambda: gate.batches == [[1]])
        bad, beside = asyncio.create_task(owner.submit(-1)), asyncio.create_task(owner.submit(2))
        await asyncio.sleep(0.02)
        gate.may_run.release(10)
        results = await asyncio.gather(first, bad, beside, return_exceptions=True)
        assert results[0] == 1
        assert [str(result) for result in results[1:]] == ["minus one", "minus one"]
        assert await owner.submit(5) == 25

    with_owner(scenario)


def test_submit_queue_full_refuses_at_once():
    async def scenario(owner, gate):
        tasks = [asyncio.create_task(owner.submit(1))]
        await until(lambda: gate.batches == [[1]])
        tasks += [asyncio.create_task(owner.submit(number)) for number in (2, 3)]
        await asyncio.sleep(0.02)
        with pytest.raises(QueueFull):
            await owner.submit(4)
        gate.may_run.release(10)
        assert await asyncio.gather(*tasks) == [1, 4, 9]

    with_owner(scenario, max_waiting=2)


def test_submit_too_few_answers_is_named_a_bug():
    owner: OwnerThread[int, int] = OwnerThread(lambda numbers: [], name="test")
    with pytest.raises(RuntimeError, match="This is a bug"):
        asyncio.run(owner.submit(1))
    owner.close()


def test_call_runs_on_the_owner_and_raises_what_it_raised():
    owner: OwnerThread[int, int] = OwnerThread(lambda numbers: numbers, name="test owner")
    assert owner.call(lambda: threading.current_thread().name) == "test owner"
    with pytest.raises(ZeroDivisionError):
        owner.call(lambda: 1 // 0)
    owner.close()


def test_call_many_batches_lets_submitted_work_between():
    owner: OwnerThread[int, int] = OwnerThread(lambda numbers: numbers, name="test")
    slow = threading.Thread(
        target=lambda: [owner.call(lambda: time.sleep(0.02)) for _ in range(50)], daemon=True
    )
    slow.start()

    async def scenario():
        started = time.monotonic()
        await owner.submit(1)
        return time.monotonic() - started

    assert asyncio.run(scenario()) < 0.5
    assert slow.is_alive()
    slow.join()
    owner.close()


def test_close_cancels_what_waits_and_refuses_what_comes():
    async def scenario(owner, gate):
        first = asyncio.create_task(owner.submit(1))
        await until(lambda: gate.batches == [[1]])
        waiting = asyncio.create_task(owner.submit(2))
        await asyncio.sleep(0.02)
        closing = asyncio.create_task(asyncio.to_thread(owner.close))
        await asyncio.sleep(0.02)
        gate.may_run.release(10)
        await closing
        assert await first == 1
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(RuntimeError, match="closed"):
            await owner.submit(3)

    with_owner(scenario)
