import pytest

from retrieval.reading.markdown import Outline, as_code, as_text, first_heading, headings, tables

TEXT = """intro

# Guide

## Install ##
text
```sh
# not a heading
```
Setext
------
- list
---
### Deep [link](http://x) `code`
# Second
"""


def test_headings_atx_and_underlined_outside_fences():
    found = [(heading.level, heading.title) for heading in headings(TEXT)]
    assert found == [
        (1, "Guide"),
        (2, "Install"),
        (2, "Setext"),
        (3, "Deep link code"),
        (1, "Second"),
    ]
    assert [TEXT[heading.start :].split("\n")[0] for heading in headings(TEXT)][2] == "Setext"


def test_outline_path_names_the_sections_around_an_offset():
    outline = Outline(TEXT)
    assert outline.path_at(0) == ()
    assert outline.path_at(TEXT.index("# Guide")) == ("Guide",)
    assert outline.path_at(TEXT.index("text")) == ("Guide", "Install")
    assert outline.path_at(TEXT.index("### Deep")) == ("Guide", "Setext", "Deep link code")
    assert outline.path_at(len(TEXT)) == ("Second",)


def test_first_heading_none_without_one():
    assert first_heading("just text\n#hashtag") is None


TABLES = """# Owls

| Species | `Weight` | |
|:--------|---------:|-|
| Barn    | 500 g    | |
| Eagle   | 3 kg     |

```
a | b
--|--
1 | 2
```
Name | City
--- | ---
Athena | Athens
"""


def test_tables_by_their_line_of_dashes_outside_fences():
    found = list(tables(TABLES))
    assert [table.title for table in found] == ["Species | Weight", "Name | City"]
    assert [TABLES[table.body : table.end].split("\n")[0] for table in found] == [
        "| Barn    | 500 g    | |",
        "Athena | Athens",
    ]
    assert TABLES[: found[0].body].endswith(found[0].head)
    assert TABLES[found[0].end :].startswith("\n```")
    assert found[1].end == len(TABLES)


@pytest.mark.parametrize(
    "text", ["a\n---\nb", "a | b\n\n--|--", "| a |\n| b |", "```\na|b\n-|-\n```", "|---|\n| a |"]
)
def test_tables_none_without_header_and_dashes(text):
    assert list(tables(text)) == []


def test_table_of_a_header_alone_has_no_rows():
    (table,) = tables("a | b\n--|--")
    assert (table.body, table.end) == (11, 11)


def test_outline_among_the_rows_of_a_table_names_its_header():
    outline = Outline(TABLES)
    assert outline.path_at(TABLES.index("| Species")) == ("Owls",)
    assert outline.path_at(TABLES.index("| Barn")) == ("Owls", "Species | Weight")
    assert outline.path_at(TABLES.index("kg")) == ("Owls", "Species | Weight")
    assert outline.path_at(TABLES.index("```")) == ("Owls",)
    assert outline.path_at(TABLES.index("Athena")) == ("Owls", "Name | City")


@pytest.mark.parametrize(
    "line", ["# a", "  ## b", "######", "===", "---  ", "```", "~~~ sh", "    # deep"]
)
def test_as_text_keeps_headings_and_fences_from_beginning(line):
    text = as_text(f"word\n{line}\n# after")
    assert list(headings(text)) == []
    assert text.replace("\\", "") == f"word\n{line}\n# after"


@pytest.mark.parametrize(
    "line", ["#tag", "####### seven", "- item", "a # b", "-", "=== x", "`code`"]
)
def test_as_text_leaves_other_text_alone(line):
    assert as_text(line) == line


def test_as_code_takes_a_longer_fence_than_any_inside():
    assert as_code("x = 1", "python") == "```python\nx = 1\n```"
    assert as_code("```\n`````\n") == "``````\n```\n`````\n\n``````"
    assert first_heading(as_code("```\n# no") + "\n# yes") == "yes"


def test_headings_of_an_endless_line_takes_no_time():
    # In time square to its length this would take minutes.
    assert list(headings("# " + " " * 200_000 + "x\n" + "y" * 200_000 + "\n===")) == []
