from retrieval.markdown import Outline, first_heading, headings

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
