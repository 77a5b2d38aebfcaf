"""HTTP client of the command line: call a ragrelay server, stream an answer, one line an error.

`shown` makes text of documents and models safe to print: control characters, which a terminal
would act on, become visible.
"""

import http.client
import json
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, NoReturn
from urllib.parse import urlsplit

import click

TIMEOUT_S = 60.0
"""Between two bytes; a server that streams sends at least a comment every 15 s."""
MAX_BODY = 16 << 20
MAX_LINE = 4 << 20

Fields = dict[str, Any]

# C0 but tab and newline, DEL and C1, signs that turn the direction of text, halves of characters.
_UNSHOWN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class NotAnswered(click.ClickException):
    """The server cannot be reached, refused, or broke off. Exit code 1."""


def shown(text: str) -> str:
    """Return the text with a symbol or an escape for each character that a terminal acts on."""
    return _UNSHOWN.sub(_picture, text)


def _picture(found: re.Match[str]) -> str:
    code = ord(found.group())
    return chr(0x2400 + code) if code < 0x20 else f"\\u{code:04x}"


class Server:
    """A server's address and the key for it.

    Calls raise NotAnswered, and UsageError (exit code 2) where the server answers 422.
    """

    def __init__(self, url: str, key: str, *, timeout_s: float = TIMEOUT_S) -> None:
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
        self._timeout_s = timeout_s
        self.url = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{self._path}"

    def call(self, method: str, path: str, body: bytes | None = None) -> Fields:
        """Send a request, its body JSON if there is one, and return the response's JSON."""
        with self._opened(method, path, body) as response:
            return self._whole(response)

    def ask(self, question: Fields) -> Fields:
        """Return the whole answer to a question (POST /query)."""
        return self.call("POST", "/query", json.dumps(question).encode())

    def stream(self, question: Fields) -> Iterator[tuple[str, Fields]]:
        """Yield the events of an answer, the last a `done` (POST /query/stream)."""
        body = json.dumps(question).encode()
        with self._opened("POST", "/query/stream", body) as response:
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

    @contextmanager
    def _opened(
        self, method: str, path: str, body: bytes | None
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and give its response. Redirects are not followed: they would take
        the key elsewhere."""
        host, port = self._address
        headers = self._headers | ({"Content-Type": "application/json"} if body else {})
        with closing(self._connection(host, port, timeout=self._timeout_s)) as connection:
            try:
                connection.request(method, self._path + path, body, headers)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as exc:
                raise NotAnswered(f"no answer from {shown(self.url)}: {_reason(exc)}") from exc
            if not 200 <= response.status < 300:
                self._refuse(response)
            yield response

    def _refuse(self, response: http.client.HTTPResponse) -> NoReturn:
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
