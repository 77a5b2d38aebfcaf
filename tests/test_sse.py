"""The SSE codec, cut at every byte."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.answering.events import Token
from api.sse import Decoder, FrameTooLong, encode_frame

STREAM = (
    b": comment\n\n"
    b"data: one\n\n"
    b"data:two\r\n\r\n"
    b"event: x\nid: 1\ndata: three\ndata: more\n\n"
    b"data: a\xe2\x80\xa8b \xc3\xa9\r\r"
    b"data\n\n"
    b"data:  two spaces\n\n"
)
EVENTS = [b"one", b"two", b"three\nmore", "a\u2028b é".encode(), b" two spaces"]


def decode(*chunks: bytes) -> list[bytes]:
    decoder = Decoder()
    return [data for chunk in chunks for data in decoder.feed(chunk)]


def test_decoder_reads_every_line_end() -> None:
    assert decode(STREAM) == EVENTS


@pytest.mark.parametrize("cut", range(len(STREAM)))
def test_decoder_cut_anywhere_reads_the_same(cut: int) -> None:
    assert decode(STREAM[:cut], STREAM[cut:]) == EVENTS


def test_decoder_byte_by_byte_reads_the_same() -> None:
    assert decode(*(STREAM[i : i + 1] for i in range(len(STREAM)))) == EVENTS


@given(st.lists(st.integers(0, len(STREAM))))
def test_decoder_cut_at_random_reads_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    assert decode(*chunks) == EVENTS


def test_decoder_unfinished_event_is_not_given() -> None:
    assert decode(b"data: one\n") == []


@pytest.mark.parametrize("chunk", [b"data: " + b"x" * 2000, b"data: " + b"x" * 2000 + b"\n\n"])
def test_decoder_line_too_long_is_refused(chunk: bytes) -> None:
    with pytest.raises(FrameTooLong):
        list(Decoder(max_bytes=1000).feed(chunk))


def test_decoder_event_of_endless_lines_is_refused() -> None:
    with pytest.raises(FrameTooLong):
        list(Decoder(max_bytes=1000).feed(b"data: x\n" * 5000))


@given(st.text())
def test_frame_holds_any_text_on_one_data_line(text: str) -> None:
    frame = encode_frame(b"token", 7, Token(text))
    head, event, data, *rest = frame.split(b"\n")
    assert (head, event, rest) == (b"id: 7", b"event: token", [b"", b""])
    assert json.loads(data[6:]) == {"token": text}
    assert "\u2028" not in frame.decode() and "\u2029" not in frame.decode()
