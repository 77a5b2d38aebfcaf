"""A parser process: reads files from its standard input, answers with their text, and no more.

The pool starts it. An error in one file becomes that file's reason; what libraries print is
discarded.
"""

import importlib
import os
import resource
import sys
from collections.abc import Callable
from typing import cast

import msgspec

from retrieval.reading.bounded import Unreadable
from retrieval.reading.parsing.clean import one_line, plain
from retrieval.reading.parsing.sandbox import allow_cpu, confine
from retrieval.reading.parsing.wire import Parsed, ParseLimits, Reply, read_frame, write_frame

PARSERS = {
    ".pdf": "pdf",
    ".docx": "word",
    ".html": "webpage",
    ".htm": "webpage",
    ".csv": "spreadsheet",
    ".tsv": "spreadsheet",
    ".ipynb": "notebook",
}
"""Modules of this package with `parse(content, limits)`, imported when they are first needed."""


def main(limits_json: str) -> None:
    """Serve until the input ends, `limits.files` have been read or too much memory is taken."""
    limits = msgspec.json.decode(limits_json, type=ParseLimits)
    # Before `confine`, which refuses to open files; print would break into the frames of a reply.
    replies = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    memory = os.open("/proc/self/statm", os.O_RDONLY)
    confine(limits)
    for served in range(1, limits.files + 1):
        suffix = read_frame(sys.stdin.buffer)
        content = read_frame(sys.stdin.buffer)
        if suffix is None or content is None:
            return
        allow_cpu(limits.cpu_s)
        found = answer(suffix.decode(), content, limits)
        # Python seldom gives memory back: the next file would have less than its due.
        is_last = served == limits.files or _taken_bytes(memory) > limits.memory_bytes // 4
        reply = Reply(found, is_last) if isinstance(found, Parsed) else Reply(None, is_last, found)
        write_frame(replies, msgspec.msgpack.encode(reply))
        if is_last:
            return


def answer(suffix: str, content: bytes, limits: ParseLimits) -> Parsed | str:
    """What the file holds, or the reason why it is not read."""
    try:
        return parse(suffix, content, limits)
    except Unreadable as exc:
        return one_line(str(exc))
    except MemoryError:
        return f"needs more than {limits.memory_bytes >> 20} MiB of memory"
    except RecursionError:
        return "nested too deep"
    except Exception as exc:  # libraries raise anything at hostile bytes; only this file fails
        return one_line(f"damaged: {type(exc).__name__}: {exc}")


def parse(suffix: str, content: bytes, limits: ParseLimits) -> Parsed:
    module = importlib.import_module(f"retrieval.reading.parsing.{PARSERS[suffix]}")
    parser = cast(Callable[[bytes, ParseLimits], Parsed], module.parse)
    parsed = parser(content, limits)
    text = plain(parsed.text).strip("\n")
    if not text.strip():
        raise Unreadable("empty")
    if len(text) > limits.chars:
        raise Unreadable(f"more than {limits.chars:,} characters of text")
    return Parsed(text, one_line(parsed.title), [one_line(note) for note in parsed.notes])


def _taken_bytes(statm: int) -> int:
    """Of address space, which is what the limit is on."""
    return int(os.pread(statm, 200, 0).split()[0]) * resource.getpagesize()
