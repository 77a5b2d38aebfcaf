"""Word, CSV, notebooks, reStructuredText."""

import pytest

from retrieval.reading.bounded import Unreadable
from retrieval.reading.parsing import notebook, spreadsheet, word
from retrieval.reading.parsing.restructured import to_markdown
from retrieval.reading.parsing.wire import ParseLimits
from tests.retrieval.reading.parsing import make

SMALL = ParseLimits(unpacked_bytes=1_000_000, chars=10_000)


def test_docx_headings_paragraphs_and_tables():
    found = word.parse(
        make.docx(
            make.heading("Owls", 1),
            make.paragraph("They hunt."),
            make.heading("Sizes", 2),
            make.table([["Species", "Weight"], ["Barn owl", "500 g"]]),
        ),
        SMALL,
    )
    assert found.text == "# Owls\n\nThey hunt.\n\n## Sizes\n\n- Species: Barn owl; Weight: 500 g"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"PK\x03\x04 no zip", "damaged zip file"),
        (make.zipped({"inner.zip": make.zipped({"a": b"0"})}), "a zip file, but not a Word"),
        (make.docx(more={"word/footnotes.xml": b" " * 2_000_000}), "unpacks to more than"),
        (make.docx(more={f"word/{n}.xml": b"" for n in range(10_001)}), "more than 10,000 parts"),
        (make.docx(main="<w:document>"), "damaged: word/document.xml"),
        (make.docx("&a9;", doctype=make.billion_laughs()), "word/document.xml declares a document"),
        (
            make.docx("&secret;", doctype=make.external_entity("/etc/passwd")),
            "word/document.xml declares a document type",
        ),
        (
            make.docx(more={"word/styles.xml": "<?xml version='1.0' encoding='utf-16'?>"
                            "<!DOCTYPE a><a/>".encode("utf-16")}),
            "word/styles.xml declares a document type",
        ),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_docx_hostile_is_refused_before_it_unfolds(content, reason):
    with pytest.raises(Unreadable, match=f"^{reason}"):
        word.parse(content, SMALL)


def test_docx_part_larger_than_declared_is_damaged():
    package = make.docx(make.paragraph("x" * 5_000))
    record = package.rindex(b"word/document.xml") - 46  # of the central directory
    lying = package[: record + 24] + (100).to_bytes(4, "little") + package[record + 28 :]
    with pytest.raises(Unreadable, match="^damaged zip file: Bad CRC"):
        word.parse(lying, SMALL)


def test_csv_rows_carry_the_names_of_their_columns():
    content = make.csv_file([["City", "Inhabitants", "Note"], ["Berlin", "3.7 m", "two\nlines"]])
    assert spreadsheet.parse(content, SMALL).text == (
        "- City: Berlin; Inhabitants: 3.7 m; Note: two lines"
    )


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_delimiter_is_told_from_the_rows(delimiter):
    rows = [["a", "b", "c"], ["1,5", "x", "y; z"], ["2,5", "", "t"]]
    assert spreadsheet.parse(make.csv_file(rows, delimiter), SMALL).text == (
        "- a: 1,5; b: x; c: y; z\n- a: 2,5; c: t"
    )


@pytest.mark.parametrize(
    "first", [["1", "2"], ["x", "x"], ["a", "-3.5"], ["5 %", "b"], ["y" * 101, "b"]]
)
def test_csv_without_names_of_columns_keeps_its_first_row(first):
    text = spreadsheet.parse(make.csv_file([first, ["c", "d"]]), SMALL).text
    assert text == f"- {first[0]}; {first[1]}\n- c; d"


def test_csv_column_of_row_numbers_needs_no_name():
    content = make.csv_file([["", "owl"], ["0", "barn"], [], ["1", "eagle", "more"]])
    assert spreadsheet.parse(content, SMALL).text == "- 0; owl: barn\n- 1; owl: eagle; more"


def test_csv_names_of_columns_alone_are_a_row():
    assert spreadsheet.parse(b"a,b\n", SMALL).text == "- a; b"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_csv_byte_order_mark_tells_the_encoding(encoding):
    content = "a,b\nä,ö\n".encode(encoding)
    assert spreadsheet.parse(content, SMALL).text == "- a: ä; b: ö"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a,b\n1,caf\xe9", "not UTF-8 at byte 9"),
        ("a,b".encode("utf-16") + b"\x00", "not UTF-16 at byte"),
        (b"a,b\n" + b"x" * 1_048_577, "line 2: longer than 1,048,576 characters"),
        (b'a,b\n"' + b"x\n" * 600_000, "line .*: field larger than field limit"),
        (b"a,b\n" + b"," * 1_000, "line 2: more than 1,000 columns"),
        (b"h" * 99 + b",b\n" + b"1,2\n" * 200, "more than 10,000 characters of text"),
    ],
)
def test_csv_hostile_says_where_it_ends(content, reason):
    with pytest.raises(Unreadable, match=f"^{reason}"):
        spreadsheet.parse(content, SMALL)


def test_notebook_cells_code_and_outputs():
    content = make.notebook(
        {"cell_type": "markdown", "source": ["# Owls\n", "\n", "text"]},
        {
            "cell_type": "code",
            "source": "count()",
            "outputs": [
                {"output_type": "stream", "text": ["\x1b[31m4\x1b[0m owls\n"]},
                {"output_type": "execute_result", "data": {"text/plain": "4", "image/png": "=="}},
                {"output_type": "display_data", "data": {"image/png": ["iVBO"], "x": {"y": [1]}}},
            ],
        },
        {"cell_type": "code", "source": "  "},
        title="Counting",
        language_info={"name": "python"},
    )
    found = notebook.parse(content, SMALL)
    assert found.title == "Counting"
    assert found.text.split("\n\n") == [
        "# Owls",
        "text",
        "```python\ncount()\n```",
        "```\n4 owls\n```",
        "```\n4\n```",
    ]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"worksheets": []}', b'{"cells": 3}', b'{"cells": [{}]}']
)
def test_notebook_of_another_kind_is_refused(content):
    with pytest.raises(Unreadable, match="^not a notebook of format 4"):
        notebook.parse(content, SMALL)


RST = """\
=====
Guide
=====

Intro with a table:

=====  ====
Owl    Size
=====  ====
barn   33
=====  ====

Install
-------
On Linux
~~~~~~~~
::

    ~~~~~~~~

Use
---
text
"""


def test_rst_section_titles_become_headings_in_order_of_their_adornments():
    text = to_markdown(RST)
    headings = [line for line in text.split("\n") if line.startswith("#")]
    assert headings == ["# Guide", "## Install", "### On Linux", "## Use"]
    assert "\n=====  ====\nbarn   33\n=====  ====\n" in text


@pytest.mark.parametrize(
    "text", ["", "---", "a\n--", "text\nmore\n----\n", "\n  indented\n=====\n"]
)
def test_rst_without_a_section_stays_without_headings(text):
    assert "# " not in to_markdown(text)


def test_rst_many_adornments_stay_within_six_levels():
    sections = "\n\n".join(f"T{mark}\n{mark * 4}" for mark in "=-~^+*#'")
    levels = [len(line.split()[0]) for line in to_markdown(sections).split("\n") if line]
    assert levels == [1, 2, 3, 4, 5, 6, 6, 6]
