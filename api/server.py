"""Run the app under uvicorn, on a socket that was bound before anything else started.

One worker a process: models and index are loaded once, gauges stay true; scale by replicas.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.http.edge import Edge
from api.settings.env import SettingsError
from api.settings.groups import ApiSettings

CLOSE_S = 2
"""For connections without an answer under way, once the answers have ended."""

_HEAD = b"HTTP/1."


def bind(api: ApiSettings) -> socket.socket:
    """Return a listening socket. Raises SettingsError naming port and variable."""
    family = socket.AF_INET6 if ":" in api.host else socket.AF_INET
    # Named protocol: asyncio turns Nagle off on no other sockets, which costs 40 ms a request.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((api.host, api.port))
    except OSError as exc:
        listener.close()
        raise SettingsError(
            f"API_PORT: cannot listen on {api.host}:{api.port} ({exc.strerror}); "
            "set API_PORT to a free port"
        ) from exc
    return listener


class _Joining:
    """A transport that keeps a head back until the next write, or the next turn of the loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            self.write(b"")


class JoinedWrites(HttpToolsProtocol):
    """The head of a response goes out together with what follows it.

    uvicorn writes the head, then the body; uvloop sends each write at once, so that an answer of
    two kilobytes would cost two calls to the kernel and wake its client twice.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        joining = _Joining(transport, self.loop)
        super().connection_made(cast(asyncio.Transport, joining))


class Server(uvicorn.Server):
    """A signal makes the app unready; open answers get their time. A second one stops at once.

    uvicorn would raise the signal once more when all is closed; a clean stop exits 0.
    """

    def __init__(self, config: uvicorn.Config, app: Edge) -> None:
        super().__init__(config)
        self._service = app.service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True
        self._service.drain.begin()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn closes the listeners first, and ends the lifespan before answers that it cuts
        # have given back what they hold.
        wait_s = self._service.settings.api.drain_seconds
        await self._service.drain.finish(wait_s, is_hurried=lambda: self.force_exit)
        await super().shutdown(sockets)


async def serve(app: Edge, listener: socket.socket, on_ready: Callable[[], None]) -> None:
    """Serve until a signal comes; call `on_ready` once the first question can be answered."""
    config = uvicorn.Config(
        app,
        http=JoinedWrites,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # uvicorn would believe every local client
        ws="none",
        timeout_graceful_shutdown=CLOSE_S,
    )
    announcer = asyncio.create_task(_announce(app, on_ready))
    try:
        await Server(config, app).serve(sockets=[listener])
    finally:
        announcer.cancel()


async def _announce(app: Edge, on_ready: Callable[[], None]) -> None:
    with suppress(TimeoutError):
        await app.service.until_answering()
        on_ready()
