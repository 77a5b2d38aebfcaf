"""A TCP proxy that is as bad a network as a test asks for."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

import msgspec

from tests.support.threaded import ThreadedServer


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to the bytes from the server; each field is off by default."""

    latency_s: float = 0.0
    piece: int = 0
    """Send so many bytes at a time."""
    pause_s: float = 0.0
    """Between two pieces."""
    merge_s: float = 0.0
    """Hold bytes back so long and send them as one."""
    cut_after: int | None = None
    """End the connection after so many bytes…"""
    reset: bool = False
    """… with RST instead of FIN."""
    silent_after: int | None = None
    """Keep the connection open and send nothing more after so many bytes."""


class FaultProxy(ThreadedServer):
    """Forwards to `target_port`."""

    def __init__(self, target_port: int, faults: Faults) -> None:
        super().__init__()
        self._target_port = target_port
        self._faults = faults

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        upward = asyncio.create_task(_copy(reader, up_writer))
        try:
            await self._spoil(up_reader, writer)
        finally:
            upward.cancel()
            up_writer.close()

    async def _spoil(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        faults, sent = self._faults, 0
        await asyncio.sleep(faults.latency_s)
        async for piece in self._pieces(reader):
            limit = faults.cut_after if faults.cut_after is not None else faults.silent_after
            if limit is not None and sent + len(piece) >= limit:
                writer.write(piece[: limit - sent])
                await writer.drain()
                if faults.silent_after is not None:
                    await asyncio.sleep(60)
                if faults.reset:
                    raw = writer.get_extra_info("socket")
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                return
            writer.write(piece)
            await writer.drain()
            sent += len(piece)
            if faults.pause_s:
                await asyncio.sleep(faults.pause_s)

    async def _pieces(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        faults = self._faults
        while chunk := await reader.read(65536):
            if faults.merge_s:
                await asyncio.sleep(faults.merge_s)
            size = faults.piece or len(chunk)
            for start in range(0, len(chunk), size):
                yield chunk[start : start + size]


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
