"""A pool of parser processes, in which files of risky formats are read.

A process starts when a file needs one, reads many, and is replaced when it ends. It limits itself
(`sandbox`); the pool adds the deadline, and turns the end of a process into a reason. A process
inherits no environment, so none of the parent's secrets.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec

import retrieval
from retrieval.reading.bounded import Unreadable, read_bytes
from retrieval.reading.parsing.wire import Parsed, ParseLimits, Reply, read_frame, write_frame

PROCESSES = 2
"""Each may take the whole memory limit."""

_ROOT = Path(retrieval.__file__).parents[1]
# This very code, wherever it lies, and whatever else we can import, behind what Python finds alone.
# -P keeps the working directory, which may be a stranger's, out of the front.
_START = """\
import sys
_, root, limits, *paths = sys.argv
sys.path.insert(0, root)
import retrieval
del sys.path[0]
sys.path += [path for path in (root, *paths) if path not in sys.path]
from retrieval.reading.parsing.worker import main
main(limits)
"""


class ParserPool:
    """Parses files in parallel. Use as a context manager: leaving it ends every process."""

    def __init__(self, limits: ParseLimits | None = None, *, processes: int = PROCESSES) -> None:
        self.limits = limits or ParseLimits()
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="parser")
        self._idle: list[_Parser] = []
        self._all: set[_Parser] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def parse(self, path: Path) -> Future[Parsed]:
        """Begin to read the file. The future raises Unreadable with the reason of a failure."""
        return self._threads.submit(self._parse, path)

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            parsers = list(self._all)
        # Killed first: the threads that wait for their replies would not end otherwise.
        for parser in parsers:
            parser.kill()
        self._threads.shutdown(cancel_futures=True)
        for parser in parsers:
            parser.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _parse(self, path: Path) -> Parsed:
        content = read_bytes(path)
        with self._borrowed() as parser:
            reply = parser.ask(f".{path.name.lower().rpartition('.')[2]}", content)
        if reply.parsed is None:
            raise Unreadable(reply.reason)
        return reply.parsed

    @contextmanager
    def _borrowed(self) -> Iterator["_Parser"]:
        with self._lock:
            if self._is_closed:
                raise Unreadable("stopped")
            while self._idle and not self._idle[-1].may_serve():
                self._discard(self._idle.pop())
            parser = self._idle.pop() if self._idle else _Parser(self.limits)
            self._all.add(parser)
        try:
            yield parser
        finally:
            with self._lock:
                if parser.may_serve():
                    self._idle.append(parser)
                else:
                    self._discard(parser)

    def _discard(self, parser: "_Parser") -> None:
        parser.close()
        self._all.discard(parser)


class _Parser:
    """One process, which reads a file at a time."""

    def __init__(self, limits: ParseLimits) -> None:
        self._limits = limits
        self._is_leaving = False
        start = (sys.executable, "-P", "-c", _START)
        try:
            self._process = subprocess.Popen(
                [*start, str(_ROOT), msgspec.json.encode(limits), *filter(os.path.isabs, sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
            )
        except OSError as exc:
            raise Unreadable(f"cannot start a parser: {exc.strerror}") from exc

    def ask(self, suffix: str, content: bytes) -> Reply:
        """Raises Unreadable if the process ends instead of answering."""
        assert self._process.stdin is not None and self._process.stdout is not None
        is_overdue = threading.Event()

        def end() -> None:
            is_overdue.set()
            self.kill()

        deadline = threading.Timer(self._limits.wall_s, end)
        deadline.start()
        try:
            write_frame(self._process.stdin, suffix.encode())
            write_frame(self._process.stdin, content)
            frame = read_frame(self._process.stdout)
        except BrokenPipeError:
            frame = None
        finally:
            deadline.cancel()
        if frame is None:
            raise Unreadable(self._why_ended(is_overdue=is_overdue.is_set()))
        reply = msgspec.msgpack.decode(frame, type=Reply)
        self._is_leaving = reply.is_last
        return reply

    def may_serve(self) -> bool:
        return not self._is_leaving and self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass  # what the process had not read is flushed once more

    def _why_ended(self, *, is_overdue: bool) -> str:
        self._process.kill()
        code = self._process.wait()
        if is_overdue:
            return f"takes longer than {self._limits.wall_s:g} s"
        if code == -signal.SIGXCPU:
            return f"needs more than {self._limits.cpu_s} s of processor time"
        return f"its parser ended ({signal.Signals(-code).name if code < 0 else f'status {code}'})"
