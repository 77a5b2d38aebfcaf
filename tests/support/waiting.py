"""Waiting for a condition, in a test without a loop and in one with."""

import asyncio
import time
from collections.abc import Callable


def eventually(condition: Callable[[], object], *, within_s: float = 5.0) -> float:
    """Wait until the condition holds; return the seconds it took. Fails with AssertionError."""
    started = time.monotonic()
    while time.monotonic() - started < within_s:
        if condition():
            return time.monotonic() - started
        time.sleep(0.02)
    raise AssertionError(f"not so within {within_s} s")


async def until(condition: Callable[[], object], *, within_s: float = 20.0) -> None:
    """Let other tasks run until the condition holds. Fails with AssertionError."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not so within {within_s} s"
        await asyncio.sleep(0.002)
