"""Where sentences end, and that it does not depend on how the text comes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.citations.sentences import MAX_SENTENCE, Sentences, split

TEXTS = [
    ("Lima is big. It is old.", ["Lima is big.", "It is old."]),
    ("It costs $3.50 a piece. Yes.", ["It costs $3.50 a piece.", "Yes."]),
    ("Dr. Smith met J. R. Doe et al. in St. Ives.", None),
    ("He left the U.S. Army. It was so.", ["He left the U.S. Army.", "It was so."]),
    ("He left the U.S. The army stayed.", ["He left the U.S.", "The army stayed."]),
    ("See e.g. Fig. 3 vs. No. 5, approx. 7 km.", None),
    ("1. One thing\n2. Another thing", ["1. One thing", "2. Another thing"]),
    ("- one\n- two\n\nthree", ["- one", "- two", "three"]),
    ("Run `make run`.\n\n```\na.b(c)\n```", ["Run `make run`.", "```", "a.b(c)", "```"]),
    ("A line that was wrapped at some column because it is too long,\nas files are.", None),
    ("北京是首都。它很大！是吗？", ["北京是首都。", "它很大！", "是吗？"]),
    ("So it is [1]. And [2] so.", ["So it is [1].", "And [2] so."]),
    ("So it is. [1] [2] And so.", ["So it is. [1] [2]", "And so."]),
    ("So it is.[1] And so.", ["So it is.[1]", "And so."]),
    ("So it is.\n[1]\nAnd so.", ["So it is.\n[1]", "And so."]),
    ("So it is.\n[1] And so.", ["So it is.", "[1] And so."]),
    ("So it is. (Perhaps.) Or not?", ["So it is.", "(Perhaps.)", "Or not?"]),
    ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
    ("Really?! Yes... no", ["Really?!", "Yes... no"]),
    ("no end at all", None),
    ("  \n ", []),
    ("", []),
]


def sentences_of(text: str) -> list[str]:
    return [text[start:end] for start, end in split(text)]


@pytest.mark.parametrize(("text", "expected"), TEXTS, ids=[text[:24] for text, _ in TEXTS])
def test_text_is_split_where_its_sentences_end(text: str, expected: list[str] | None) -> None:
    assert sentences_of(text) == ([text] if expected is None else expected)


# What decides where sentences end, in all orders.
_PARTS = st.sampled_from(
    [
        *"Aa1 \n.!?。[](),;-*`\"'…",
        "[1]", "(source 2)", "【3】", "[1", "U.S.", "Dr. ", "The ", "the ", "word ", "3.5", "\n\n",
        "\n- ", "\n1. ", "是", "\u2028", "\ud800", "x" * 70,
    ]
)  # fmt: skip
_TEXTS = st.one_of(st.lists(_PARTS, max_size=40).map("".join), st.text(max_size=200))


def streamed(pieces: list[str]) -> list[tuple[int, int]]:
    sentences = Sentences()
    found = [ended for piece in pieces for ended in sentences.feed(piece)]
    found += sentences.finish()
    return [(start, start + len(sentence)) for start, sentence in found]


@settings(max_examples=500, deadline=None)
@given(text=_TEXTS, cuts=st.lists(st.integers(0, 400), max_size=12))
def test_pieces_never_change_the_sentences(text: str, cuts: list[int]) -> None:
    bounds = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    assert streamed(pieces) == split(text) == streamed(list(text))


@settings(max_examples=200, deadline=None)
@given(text=_TEXTS)
def test_spans_are_in_order_and_leave_out_blanks_alone(text: str) -> None:
    spans = split(text)
    covered = "".join(text[start:end] for start, end in spans)
    assert "".join(covered.split()) == "".join(text.split())
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))


@pytest.mark.parametrize("piece", ["word ", "[", "x", ".", "\n", "a. ", "是", "[1]"])
def test_text_without_end_is_cut_at_its_bound_whatever_the_pieces(piece: str) -> None:
    text = piece * (5000 // len(piece))
    spans = split(text)
    assert all(end - start <= MAX_SENTENCE for start, end in spans)
    assert streamed([text[n : n + 7] for n in range(0, len(text), 7)]) == spans


def test_sentence_is_told_with_the_word_that_follows_it() -> None:
    sentences = Sentences()
    told = [bool(sentences.feed(piece)) for piece in ["Lima", " is", " it", ".", " It", " is"]]
    assert told == [False, False, False, False, False, True]
