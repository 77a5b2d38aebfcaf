"""A client that reads a resumable stream bit by bit."""

import http.client
import json

from tests.support.harness import (
    QUESTION,
    Answered,
    Client,
    frames,
)

RESUMABLE = QUESTION | {"resume": True}
JSON = {"Content-Type": "application/json"}
NO_HEADERS: dict[str, str] = {}


def whole_frames(received: bytes) -> bytes:
    """Drop what a cut has left of a frame."""
    end = received.rfind(b"\n\n")
    return received[: end + 2] if end >= 0 else b""


class Reader:
    """A client that reads a stream bit by bit, keeps whole frames, and may leave in between."""

    def __init__(self, client: Client, headers: dict[str, str] = NO_HEADERS) -> None:
        self.client = client
        self.headers = headers
        self.resume_id = ""
        self.received = b""
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def ask(self, body: object = RESUMABLE) -> None:
        self._open("POST", "/query/stream", json.dumps(body).encode(), self.headers | JSON)
        self.resume_id = self.response.headers["X-Resume-ID"]

    def resume(self) -> int:
        """Leave, drop what is not whole, ask for the rest, and return the status."""
        self.leave()
        self.received = whole_frames(self.received)
        known = frames(self.received)
        last = {"Last-Event-ID": str(known[-1].id)} if known else {}
        return self._open("GET", f"/query/stream/{self.resume_id}", None, self.headers | last)

    def read(self, n_bytes: int) -> None:
        while n_bytes > 0 and (chunk := self.response.read1(n_bytes)):
            self.received += chunk
            n_bytes -= len(chunk)

    def leave(self) -> None:
        if self._connection is not None:
            self.response.close()
            self._connection.close()

    def _open(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> int:
        self._connection = http.client.HTTPConnection("127.0.0.1", self.client.port, timeout=20)
        self._connection.request(method, path, body, headers)
        self.response = self._connection.getresponse()
        return self.response.status


ALL = 1 << 30


def taken_up(client: Client, resume_id: str, last: object = None) -> Answered:
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    return client.get(f"/query/stream/{resume_id}", headers)
