"""Server-sent events, both ways: our frames out, an engine's `data:` payloads in.

https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
Lines end in LF, CRLF or CR and nothing else: text that models write may hold U+2028 or U+0085
raw, which `str.splitlines` would tear apart.
"""

import msgspec

HEARTBEAT = b": keep-alive\n\n"

_encoder = msgspec.json.Encoder()


class FrameTooLong(ValueError):
    """A line or an event grew beyond the bound: no engine of ours writes that."""


def encode_json(payload: object) -> bytes:
    """Return JSON without what some clients take for the end of a line inside of it."""
    data = _encoder.encode(payload)
    if b"\xe2\x80" in data:  # U+2028 and U+2029 end a line in JavaScript before ES2019
        data = data.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    if b"\xc2\x85" in data:  # U+0085 does for httpx, which other clients read lines with
        data = data.replace(b"\xc2\x85", b"\\u0085")
    return data


def encode_frame(event: bytes, number: int, payload: object) -> bytes:
    """Return one frame; `number` becomes its id. `event` is a constant of ours, never input."""
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (number, event, encode_json(payload))


class Decoder:
    """Turns arriving bytes into the `data` of whole events, wherever the bytes are cut.

    Comments and fields other than `data` are dropped: no engine of ours uses them.
    `max_bytes` bounds what one event may hold.
    """

    def __init__(self, max_bytes: int = 1 << 20) -> None:
        self._max_bytes = max_bytes
        self._rest = b""
        self._data: list[bytes] = []
        self._after_cr = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of each event that `chunk` completes. Raises FrameTooLong."""
        if not self._rest and not self._data and _is_one_frame(chunk, self._max_bytes):
            return [chunk[6:-2]]  # what engines send but for cuts and comments
        if self._after_cr and chunk.startswith(b"\n"):
            chunk, self._after_cr = chunk[1:], False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > self._max_bytes:
            raise FrameTooLong
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
                if len(line) > self._max_bytes or len(self._data) > 1000:
                    raise FrameTooLong
            elif not line and self._data:
                events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data = []
        return events


def _is_one_frame(chunk: bytes, max_bytes: int) -> bool:
    return (
        len(chunk) <= max_bytes
        and chunk.startswith(b"data: ")
        and chunk.endswith(b"\n\n")
        and chunk.find(b"\n") == len(chunk) - 2
        and b"\r" not in chunk
    )
