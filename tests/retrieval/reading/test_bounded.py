"""Files read within bounds: pipes, lines across blocks."""

import os

import pytest

from retrieval.reading import bounded as reading


def test_read_bytes_of_what_became_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(reading.Unreadable, match="not a regular file"):
        reading.read_bytes(tmp_path / "a.txt")


def test_read_lines_across_blocks_keeps_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK", 3)
    (tmp_path / "x").write_bytes(b"one\n\nthree\nfour")
    lines = list(reading.read_lines(tmp_path / "x"))
    assert lines == [(1, b"one"), (2, b""), (3, b"three"), (4, b"four")]
