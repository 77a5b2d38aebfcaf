"""A TCP proxy that is as bad a network as a test asks for."""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import AsyncIterator

import msgspec


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


class FaultProxy:
    """Forwards 127.0.0.1:port to `target_port`, in a thread of its own."""

    def __init__(self, target_port: int, faults: Faults) -> None:
        self._target_port = target_port
        self._faults = faults
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self._tasks: set[asyncio.Task] = set()
        self.port = 0

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        assert self._started.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            upward = asyncio.create_task(_copy(reader, up_writer))
            try:
                await self._spoil(up_reader, writer)
            finally:
                upward.cancel()
                up_writer.close()
        self._tasks.discard(task)
        writer.close()

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
