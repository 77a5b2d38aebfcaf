"""A response's head leaves with its body, and alone where there is none."""

import asyncio
from typing import cast

import pytest

from api.server import _Joining

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Recorded:
    """The part of a transport that is used."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed_after: int | None = None

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.closed_after = len(self.writes)

    def is_closing(self) -> bool:
        return self.closed_after is not None


@pytest.fixture
def transport() -> Recorded:
    return Recorded()


def after_a_turn(transport: Recorded, *writes: bytes, close: bool = False) -> None:
    async def turn() -> None:
        joining = _Joining(cast(asyncio.Transport, transport), asyncio.get_running_loop())
        for data in writes:
            joining.write(data)
        if close:
            joining.close()
            assert joining.is_closing()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(turn())


def test_head_and_body_are_one_write(transport: Recorded) -> None:
    after_a_turn(transport, HEAD, b"body", b"more")
    assert transport.writes == [HEAD + b"body", b"more"]


def test_head_alone_leaves_in_the_next_turn(transport: Recorded) -> None:
    after_a_turn(transport, HEAD)
    assert transport.writes == [HEAD]


def test_head_leaves_before_the_connection_closes(transport: Recorded) -> None:
    after_a_turn(transport, HEAD, close=True)
    assert (transport.writes, transport.closed_after) == ([HEAD], 1)


def test_two_heads_in_one_turn_both_leave_in_order(transport: Recorded) -> None:
    after_a_turn(transport, HEAD, HEAD, b"body")
    assert b"".join(transport.writes) == HEAD + HEAD + b"body"
