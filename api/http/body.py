"""Read a request's body as JSON of a declared type, or raise an error that says what is wrong.

Litestar would read a body of any content type, coerce "5" to 5, and answer 500 to invalid UTF-8
or to 100,000 open brackets.
"""

import asyncio
import re
from functools import cache
from typing import Any

import msgspec
from litestar import Request
from litestar.types import Empty

from api.errors import Invalid, Malformed, TooLarge, UnsupportedMediaType

BODY_TIMEOUT_S = 10.0
_anything = msgspec.json.Decoder()
_AT = re.compile(r"(.*) - at `\$\.?(.*)`$", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)


class JSONRequest(Request[Any, Any, Any]):
    """Decodes the body straight into the type of the handler's `data`."""

    timeout_s = BODY_TIMEOUT_S
    limit_name = "API_BODY_LIMIT"

    async def json(self) -> Any:
        """Return the body. Raises Malformed, Invalid, TooLarge or UnsupportedMediaType."""
        content_type = self.scope["state"]["headers"].get("content-type", "")
        if content_type.partition(";")[0].strip().lower() != "application/json":
            raise UnsupportedMediaType("Content-Type must be application/json")
        data_field = self.route_handler.parsed_data_field
        if data_field is None:
            raise RuntimeError("a body is read on a route without `data`. This is a bug.")
        return decode(await self.body(), data_field.annotation)

    async def body(self) -> bytes:
        """Return the raw body; a client that stops sending is not waited for."""
        if self._body is not Empty:  # Litestar asks twice
            return self._body or b" "
        try:
            async with asyncio.timeout(self.timeout_s):
                self._body = await self._received()
        except TimeoutError as exc:
            raise Malformed("the body did not arrive in time") from exc
        return self._body or b" "  # Litestar takes an empty body for a missing argument

    async def _received(self) -> bytes:
        """Read no more than the limit, whatever Content-Length says."""
        limit = self.route_handler.resolve_request_max_body_size()
        chunks: list[bytes] = []
        n_bytes, more = 0, True
        while more:
            message = await self.receive()
            if message["type"] != "http.request":
                raise Malformed("the body did not arrive whole")
            chunks.append(message["body"])
            n_bytes += len(message["body"])
            if limit is not None and n_bytes > limit:
                raise TooLarge(f"the body is larger than {self.limit_name}")
            more = message.get("more_body", False)
        return b"".join(chunks)


@cache
def _decoder(cls: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(cls)


def decode(body: bytes, cls: Any) -> Any:
    """Return `body` as a `cls`. Raises Malformed, else Invalid naming field and bound."""
    try:
        try:
            return _decoder(cls).decode(body)
        except msgspec.ValidationError as exc:
            _anything.decode(body)  # the rest may be no JSON at all, or too deep
            raise Invalid(describe(str(exc))) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise Malformed("the body is not valid JSON in UTF-8, or too deep") from exc


def describe(message: str) -> str:
    """Turn msgspec's message into `field: what is expected`, short and without control codes."""
    found = _AT.match(message)
    reason, path = (found.group(1), found.group(2)) if found else (message, "")
    for pattern, text in ((_UNKNOWN, "no such field"), (_MISSING, "required")):
        if inner := pattern.fullmatch(reason):
            name = inner.group(1)[:64]
            printable = name if name.isprintable() else ascii(name)
            path, reason = f"{path}.{printable}".lstrip("."), text
    return f"{path}: {reason}" if path else reason
