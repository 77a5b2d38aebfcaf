"""The command line's HTTP client of a ragrelay server: whole answers, streams, errors in one line.

What documents and models say is shown, never obeyed: `shown` gives a terminal pictures of the
characters that it would act on.
"""

import http.client
import json
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import click

TIMEOUT_S = 60.0
"""Between two bytes; a server that works sends at least a comment every 15 s."""
MAX_BODY = 16 << 20
MAX_LINE = 4 << 20

Fields = dict[str, Any]

# C0 but tab and newline, DEL and C1, signs that turn the direction of text, halves of characters.
_UNSHOWN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class NotAnswered(ConnectionError):
    """The server cannot be reached, refused, or broke off."""


def shown(text: str) -> str:
    """Return the text with a picture or an escape for each character that a terminal obeys."""
    return _UNSHOWN.sub(_picture, text)


def _picture(found: re.Match[str]) -> str:
    code = ord(found.group())
    return chr(0x2400 + code) if code < 0x20 else f"\\u{code:04x}"


class Server:
    """A server's address and the key for it."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise click.UsageError(f"--url: not an http address: {shown(url)}")
        if not key.isascii() or not key.isprintable():
            raise click.UsageError("--key: holds characters that no header can")
        is_secure = parts.scheme == "https"
        self._connection = http.client.HTTPSConnection if is_secure else http.client.HTTPConnection
        try:
            self._address = parts.hostname, parts.port
        except ValueError as exc:
            raise click.UsageError(f"--url: {exc}") from exc
        self._path = parts.path.rstrip("/")
        self._headers = {"X-API-Key": key} if key else {}
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{self._path}"

    def get(self, path: str) -> Fields:
        with closing(self._open("GET", path)) as response:
            return self._whole(response)

    def ask(self, body: Fields) -> Fields:
        """Return the answer to a question, whole."""
        with closing(self._open("POST", "/query", body)) as response:
            return self._whole(response)

    def stream(self, body: Fields) -> Iterator[tuple[str, Fields]]:
        """Yield the events of an answer, the last a `done`. Raises NotAnswered."""
        with closing(self._open("POST", "/query/stream", body)) as response:
            name = ""
            for line in self._lines(response):
                field, _, value = line.rstrip(b"\r\n").partition(b": ")
                if field == b"event":
                    name = value.decode("ascii", "replace")
                elif field == b"data":
                    data = _decoded(value)
                    if name == "error":
                        raise NotAnswered(_told(data))
                    yield name, data
                    if name == "done":
                        return
        raise NotAnswered("the answer broke off")

    def _lines(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            while line := response.readline(MAX_LINE):
                yield line
        except (OSError, http.client.HTTPException) as exc:
            raise NotAnswered(f"the answer broke off: {_reason(exc)}") from exc

    def _open(self, method: str, path: str, body: Fields | None = None) -> Any:
        """Send a request and return its response. Redirects are not followed: they would take
        the key elsewhere."""
        host, port = self._address
        connection = self._connection(host, port, timeout=TIMEOUT_S)
        headers = self._headers | ({"Content-Type": "application/json"} if body else {})
        try:
            sent = None if body is None else json.dumps(body).encode()
            connection.request(method, self._path + path, sent, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as exc:
            connection.close()
            raise NotAnswered(f"no answer from {shown(self.url)}: {_reason(exc)}") from exc
        if response.status == 200:
            return response
        with closing(connection):
            self._refuse(response)

    def _refuse(self, response: http.client.HTTPResponse) -> None:
        try:
            told = _told(_decoded(response.read(MAX_BODY)))
        except (OSError, http.client.HTTPException, NotAnswered):
            told = f"{response.status} {shown(response.reason)}, not from ragrelay"
        if response.status == 422:
            raise click.UsageError(told)
        after = response.headers.get("Retry-After", "")
        again = f"; try again in {after} s" if after.isascii() and after.isdigit() else ""
        raise NotAnswered(f"{told}{again}")

    def _whole(self, response: http.client.HTTPResponse) -> Fields:
        try:
            return _decoded(response.read(MAX_BODY))
        except (OSError, http.client.HTTPException) as exc:
            raise NotAnswered(f"the answer broke off: {_reason(exc)}") from exc


def _decoded(data: bytes) -> Fields:
    try:
        fields = json.loads(data)
    except ValueError as exc:
        raise NotAnswered("the server sent something that is not JSON") from exc
    if not isinstance(fields, dict):
        raise NotAnswered("the server sent something that is not ragrelay's")
    return fields


def _told(body: Fields) -> str:
    error = body.get("error")
    if not isinstance(error, dict):
        raise NotAnswered("the server sent something that is not ragrelay's")
    return shown(f"{error.get('message', '')} ({error.get('code', '')})")


def _reason(exc: Exception) -> str:
    return shown(str(getattr(exc, "strerror", None) or exc) or type(exc).__name__)
