"""A live server in a thread, and the plainest of clients: sockets and http.client.

Litestar's test client delivers a stream only once it is complete; these see it as it comes.
"""

import asyncio
import gc
import http.client
import json
import socket
import threading
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import uvicorn

from api.app import create_app
from api.http.edge import Edge
from api.server import JoinedWrites
from api.settings.env import Settings
from tests.support.servers import ledger_url
from tests.support.waiting import eventually

T = TypeVar("T")

NO_HEADERS: Mapping[str, str] = {}
QUESTION = {"query": "What is the capital of France?"}


class Answered(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def error(self) -> dict[str, Any]:
        return self.json()["error"]


class Frame(NamedTuple):
    id: int
    event: str
    data: Any


class Client:
    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> Answered:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answered(response.status, found, response.read())
        finally:
            connection.close()

    def get(self, path: str, headers: Mapping[str, str] = NO_HEADERS) -> Answered:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, body: object, headers: Mapping[str, str] = NO_HEADERS) -> Answered:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, raw, {"Content-Type": "application/json", **headers})

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that carry these labels."""
        total = 0.0
        for line in self.get("/metrics").body.decode().splitlines():
            if line.startswith((name + "{", name + " ")):
                if all(f'{key}="{value}"' in line for key, value in labels.items()):
                    total += float(line.rsplit(" ", 1)[1])
        return total


class Stream:
    """An open SSE answer over a bare socket."""

    def __init__(self, client: Client, path: str = "/query/stream", body: object = QUESTION):
        self.socket = socket.create_connection(("127.0.0.1", client.port), timeout=20)
        raw = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(raw)}\r\nConnection: close\r\n\r\n"
        )
        self.socket.sendall(head.encode() + raw)

        self._response: http.client.HTTPResponse | None = None

    def read(self) -> http.client.HTTPResponse:
        self._response = http.client.HTTPResponse(self.socket)
        self._response.begin()
        return self._response

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        self.socket.close()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def frames(raw: bytes) -> list[Frame]:
    """Parse a whole SSE body; comments are dropped."""
    parsed = []
    for block in raw.decode().split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            fields = dict(line.split(": ", 1) for line in lines)
            parsed.append(Frame(int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return parsed


def text_of(stream: list[Frame]) -> str:
    return "".join(frame.data["token"] for frame in stream if frame.event == "token")


def settings_for(engine_url: str, index_dir: Path, **groups: Mapping[str, Any]) -> Settings:
    """Settings for a fake engine; groups override single fields: api={"port": 1}."""
    settings = Settings.from_env(
        {
            "ENGINE": "llamacpp",
            "ENGINE_URL": engine_url,
            "RETRIEVAL_INDEX_DIR": str(index_dir),
            "CACHE_REDIS_URL": "redis://127.0.0.1:1/0",
            "CB_REDIS_URL": ledger_url(),
            "LIMIT_ENABLED": "false",
            "CACHE_ENABLED": "false",
            "DATABASE_URL": "off",
        }
    )
    for name, fields in groups.items():
        group = msgspec.structs.replace(getattr(settings, name), **fields)
        settings = msgspec.structs.replace(settings, **{name: group})
    return settings


_loops: dict[int, asyncio.AbstractEventLoop] = {}
"""Of the servers that `live` started, by port."""


def run_in(client: Client, work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the event loop of a live server, as its own code runs."""
    return asyncio.run_coroutine_threadsafe(work, _loops[client.port]).result(20)


@contextmanager
def live(settings: Settings, *, wait: bool = True) -> Iterator[tuple[Client, Edge]]:
    """Serve an app on a free port until the block ends."""
    app = create_app(settings)
    config = uvicorn.Config(
        app, port=0, http=JoinedWrites, lifespan="on", log_config=None, ws="none"
    )
    config.timeout_graceful_shutdown = 2
    server = uvicorn.Server(config)
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    try:
        eventually(lambda: server.started, within_s=10)
        client = Client(server.servers[0].sockets[0].getsockname()[1])
        _loops[client.port] = loops[0]
        if wait:
            eventually(lambda: client.get("/health/ready").status == 200, within_s=60)
        yield client, app
    finally:
        server.should_exit = True
        thread.join(20)
        gc.unfreeze()  # what a server froze at its start would outlive it: 100 MB each
        assert not thread.is_alive(), "the server did not stop"
