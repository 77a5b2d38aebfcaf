"""Serves an exposition of expositions/, its counters growing with every scrape."""

import asyncio
import re
from pathlib import Path

from tests.support.threaded import ThreadedServer

EXPOSITIONS = Path(__file__).with_name("expositions")
_SAMPLE = re.compile(r"^([\w:]+)(\{.*\})? (\S+)$")


def types_of(exposition: str) -> dict[str, str]:
    """Return the type of each family."""
    return dict(re.findall(r"^# TYPE (\S+) (\w+)$", exposition, re.MULTILINE))


def sample_names(exposition: str) -> set[str]:
    """Return the names that can be queried."""
    found = (_SAMPLE.match(line) for line in exposition.splitlines())
    return {sample.group(1) for sample in found if sample}


def grown(exposition: str, factor: float) -> str:
    """Return the exposition with all but its gauges multiplied."""
    gauges = {name for name, kind in types_of(exposition).items() if kind == "gauge"}

    def grow(line: str) -> str:
        sample = _SAMPLE.match(line)
        if sample is None or sample.group(1) in gauges:
            return line
        name, labels, value = sample.groups()
        return f"{name}{labels or ''} {float(value) * factor}"

    return "\n".join(map(grow, exposition.splitlines())) + "\n"


class Exporter(ThreadedServer):
    def __init__(self, name: str) -> None:
        super().__init__()
        self._exposition = (EXPOSITIONS / f"{name}.txt").read_text()
        self._n_scrapes = 0

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        self._n_scrapes += 1
        body = grown(self._exposition, 1 + self._n_scrapes / 10).encode()
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
