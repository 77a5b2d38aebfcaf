import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.build.splitting import Splitter
from retrieval.reading.parsing.tables import record
from retrieval.types import Document
from tests.retrieval.fakes import word_tokenizer

SENTENCE = "The quick brown fox jumps over the lazy dog again and again. "


def split(text, *, name="a.txt", title="Title", **limits):
    return Splitter(word_tokenizer(), **limits).split(Document(name, title, text))


def test_split_short_document_stays_whole_with_its_white_space():
    passages = split("\n short text \n")
    assert [(p.passage_id, p.text, p.start, p.end) for p in passages] == [
        ("a.txt:0", "\n short text \n", 0, 14)
    ]


def test_split_a_quarter_over_stays_whole_more_does_not():
    assert len(split("word " * 24, max_tokens=20)) == 1
    assert len(split("word " * 25, max_tokens=20)) == 2


def test_split_cuts_between_sentences():
    passages = split(SENTENCE * 30, max_tokens=50, overlap=0)
    assert len(passages) > 5
    assert all(passage.text.endswith("again.") for passage in passages)


def test_split_overlap_repeats_the_last_sentence():
    passages = split(SENTENCE * 30, max_tokens=50, overlap=20)
    for before, after in zip(passages, passages[1:], strict=False):
        assert after.start < before.end


def test_split_markdown_cuts_at_headings_and_names_the_section():
    text = "# Guide\n\n" + SENTENCE * 3 + "\n\n## Install\n\n" + SENTENCE * 3 + "\n\n## Use\n\n"
    passages = split(text + SENTENCE, name="guide.md", title="Guide", max_tokens=50, overlap=0)
    assert [passage.title for passage in passages] == ["Guide", "Guide > Install", "Guide > Use"]
    assert passages[1].text.startswith("## Install")


def test_split_one_giant_word_is_cut_by_characters():
    passages = split("x" * 100_000)
    assert max(len(passage.text) for passage in passages) == 200 * 16
    assert "".join(passage.text for passage in passages) == "x" * 100_000


def test_split_long_title_is_cut_not_the_passage():
    passage = split("text", title="word " * 500)[0]
    assert len(passage.title.split()) == 48
    assert passage.text == "text"


def test_splitter_model_too_small_is_refused():
    with pytest.raises(ValueError, match="no room"):
        Splitter(word_tokenizer(), limit=40)


@pytest.mark.parametrize("name", ["a.pdf", "a.DOCX", "a.html", "a.rst", "a.ipynb", "a.csv"])
def test_split_formats_are_cut_at_headings_like_markdown(name):
    text = "# Guide\n\n" + SENTENCE * 3 + "\n\n## Install\n\n" + SENTENCE * 3
    passages = split(text, name=name, title="Guide to all", max_tokens=50, overlap=0)
    assert [passage.title for passage in passages] == ["Guide to all", "Guide to all > Install"]


@pytest.mark.parametrize("rows", [40, 4_000])
def test_split_table_keeps_rows_whole_and_names_its_header(rows):
    head = "| Name | Meaning |\n|---|---|\n"
    body = [f"| `name_{n}` | What *it* means. {'And so on. ' * (n % 4)}|" for n in range(rows)]
    text = f"# Settings\n\n{SENTENCE}\n\n{head}" + "\n".join(body) + f"\n\n{SENTENCE}"
    passages = split(text, name="a.md", title="Settings", max_tokens=50, overlap=0)
    assert all(any(row in passage.text for passage in passages) for row in body)
    cut = [p for p in passages if p.text.startswith("| `name") or p.text.startswith("`name")]
    assert len(cut) > rows // 10
    assert {passage.title for passage in cut} == {"Settings > Name | Meaning"}
    assert all(text[p.start : p.end] == p.text for p in passages)


rows = st.lists(
    st.lists(
        st.sampled_from(
            ["a: alpha", "b: `x` *y*. Z", "c: 1; 2.", "[d](e): |", "# f", "- g", "1. h", "> i"]
        ),
        min_size=1,
        max_size=6,
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(rows, st.integers(80, 120), st.integers(0, 30))
def test_split_records_are_never_cut(table, max_tokens, overlap):
    lines = [record([], cells) for cells in table]
    text = f"# Head\n\n{SENTENCE * 4}\n\n" + "\n".join(lines)
    passages = split(text, name="a.csv", max_tokens=max_tokens, overlap=overlap)
    at = text.index("\n\n- ") + 2
    for line in lines:
        assert any(p.start <= at and at + len(line.rstrip()) <= p.end for p in passages)
        at += len(line) + 1


words = st.lists(
    st.sampled_from(["alpha", "beta.", "Gamma!", "é", "\n", "\n\n", "# Head\n", "```\n", "| a |"]),
    max_size=150,
)


@settings(max_examples=60, deadline=None)
@given(words, st.sampled_from(["a.md", "a.txt"]), st.integers(4, 40))
def test_split_any_text_keeps_offsets_and_loses_no_word(parts, name, max_tokens):
    text = " ".join(parts)
    tokenizer = word_tokenizer()
    covered = [False] * len(text)
    for number, passage in enumerate(split(text, name=name, max_tokens=max_tokens, overlap=2)):
        assert text[passage.start : passage.end] == passage.text
        assert passage.passage_id == f"{name}:{number}"
        assert len(tokenizer.encode(passage.text)) <= max_tokens + max_tokens // 4
        covered[passage.start : passage.end] = [True] * len(passage.text)
    assert all(seen or text[at].isspace() for at, seen in enumerate(covered))


def test_split_with_the_real_tokenizer_never_exceeds_the_model(minilm):
    splitter = Splitter(minilm.tokenizer, limit=minilm.max_tokens)
    text = ("Ununseptium-294 überraschte 1,234.56 naïve Wörter 漢字かな. " * 40 + "\n\n") * 3
    document = Document("a.md", "Ein recht langer Titel " * 30, f"# Kopf\n\n{text}")
    passages = splitter.split(document)
    assert len(passages) > 5
    for passage in passages:
        assert len(minilm.tokenizer.encode(passage.indexed_text)) <= minilm.max_tokens
        assert document.text[passage.start : passage.end] == passage.text
