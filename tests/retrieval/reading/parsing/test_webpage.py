import pytest

from retrieval.reading.parsing.tables import WIDEST, Cell, laid_out
from retrieval.reading.parsing.webpage import decode, parse, to_markdown
from retrieval.reading.parsing.wire import ParseLimits


def markdown(page: str) -> str:
    return to_markdown(page)[0]


def test_html_title_headings_paragraphs_and_lists():
    page = """<!DOCTYPE html><html><head><title>Field
      guide</title></head><body><h1>Owls</h1><p>They <b>hunt</b>
      at <a href="x">night</a>.<br>Silently.<p>Second &amp; last
      <h2><span>Diet</span><a class="headerlink" href="#diet">¶</a></h2>
      <ul><li>mice<li><p>voles</p><ol><li>field<li>water</ol></ul><p>End"""
    text, title = to_markdown(page)
    assert title.split() == ["Field", "guide"]
    assert text.split("\n\n") == [
        "# Owls",
        "They hunt at night.\nSilently.",
        "Second & last",
        "## Diet",
        "- mice\n- voles\n  1. field\n  2. water",
        "End",
    ]


def test_html_code_keeps_its_lines_and_is_fenced():
    page = "<pre><code># x\n  y &lt; 1\n</code></pre><pre><div>a</div><div>```</div></pre>"
    assert markdown(page) == "```\n# x\n  y < 1\n```\n\n````\na\n\n```\n````"


def test_html_text_that_looks_like_markdown_is_text():
    assert markdown("<p># no heading<p>---<p>```") == "\\# no heading\n\n\\---\n\n\\```"


def test_html_scripts_styles_and_navigation_are_left_out():
    page = """<nav><ul><li>Home</ul></nav><div role="navigation"><div>x</div>Up</div>
      <script>var a = "<p>no</p>"</script><style>p {}</style><p>Text</p><footer>(c)</footer>"""
    assert markdown(page) == "Text"


@pytest.mark.parametrize(
    "page", ["<nav><p>Text</p></nav>", "<nav><p>Text", "<div role=navigation><nav><p>Text</nav>"]
)
def test_html_that_is_all_navigation_is_read_with_it(page):
    assert markdown(page) == "Text"


def test_html_table_rows_carry_their_headers():
    page = """<table><caption>Owls</caption><thead><tr><th>Species<th>Weight</thead>
      <tr><td>Barn owl<td>500 g<tr><td>Eagle owl<td></table><p>after"""
    assert markdown(page) == (
        "Owls\n\n- Species: Barn owl; Weight: 500 g\n- Species: Eagle owl\n\nafter"
    )


def test_html_table_of_labels_without_a_header_row():
    page = "<table><tr><th>City:<td>Athens<tr><td><b>Bird</b><td>owl<td>Athena</table>"
    assert markdown(page) == "- City: Athens\n- Bird: owl | Athena"


def test_html_table_without_any_header_keeps_its_rows():
    assert markdown("<table><tr><td>a<td>b<tr><td>c<td>d</table>") == "- a | b\n- c | d"


def test_html_table_spans_repeat_headers_and_values():
    page = """<table><tr><th rowspan=2>Owl<th colspan=2>Size<tr><th>min<th>max
      <tr><td rowspan=2>Barn<td>1<td>2<tr><td>3<td>4<tr><th colspan=3>Europe
      <tr><td>Eagle<td colspan=2>9</table>"""
    assert markdown(page).split("\n") == [
        "- Owl: Barn; Size min: 1; Size max: 2",
        "- Owl: Barn; Size min: 3; Size max: 4",
        "- Europe",
        "- Owl: Eagle; Size min: 9",
    ]


def test_html_table_that_only_lays_out_a_page_is_read_as_the_page():
    page = "<table><tr><td><h1>A</h1><p>one<p>two<td><table><tr><td>x<td>y</table></table>"
    assert markdown(page) == "# A\n\none\n\ntwo\n\n- x | y"


def test_html_table_around_a_table_is_read_as_the_page():
    page = "<table><tr><td>one<td><table><tr><td>x<td>y</table><tr><td>two</table>"
    assert markdown(page) == "one\n\n- x | y\n\ntwo"


@pytest.mark.parametrize(("depth", "rows"), [(20, "- x | y"), (21, "x\n\ny")])
def test_html_tables_within_twenty_tables_are_paragraphs(depth, rows):
    page = "<table><tr><td>" * (depth - 1) + "<table><tr><td>x<td>y" + "</table>" * depth + "<p>z"
    assert markdown(page) == f"{rows}\n\nz"


def test_html_one_column_is_no_table():
    assert markdown("<table><tr><td>one<tr><td>two</table>") == "one\n\ntwo"


@pytest.mark.parametrize(
    "value", ["0", "-1", "x", "", "²", "999999", "1e3"], ids=lambda value: f"span {value}"
)
def test_html_senseless_spans_count_as_one(value):
    page = f"<table><tr><th>a<th>b<tr><td colspan={value}>1<td>2</table>"
    assert markdown(page) == "- a: 1; b: 2"


def test_table_spans_stay_within_a_thousand_columns():
    rows = [[Cell("a", colspan=99_999, rowspan=99_999)] * 3] * 50
    assert {len(row) for row in laid_out(rows)} == {WIDEST}


@pytest.mark.parametrize(
    ("tag", "end", "depth"),
    [
        ("div", "</div>", 100_000),
        ("table><tr><td", "</table>", 20_000),
        ("ul><li", "</ul>", 20_000),
        ("b", "", 20_000),
    ],
)
def test_html_nested_without_end_is_read(tag, end, depth):
    text = markdown(f"<{tag}>" * depth + "deep" + end * depth + "<p>after")
    assert text.replace("- ", "").split() == ["deep", "after"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("café".encode(), "café"),
        ("café".encode("windows-1252"), "café"),
        ("café".encode("utf-16"), "café"),
        ("\ufeffcafé".encode(), "café"),
        (b'<meta charset="iso-8859-5">' + "сова".encode("iso-8859-5"), "сова"),
        (b'<meta http-equiv=x content="a; charset=Shift_JIS">' + "梟".encode("shift-jis"), "梟"),
        (b'<meta charset="utf-16">' + "café".encode(), "café"),
        (b'<meta charset="no-such">' + "café".encode(), "café"),
        (b'<meta charset="zlib">' + "café".encode(), "café"),
    ],
)
def test_html_encoding_is_told_as_browsers_do(content, text):
    assert decode(content).endswith(text)


def test_html_title_without_end_does_not_swallow_the_page():
    found = parse(b"<title>Owls<body><p>Text", ParseLimits())
    assert (found.title, found.text) == ("Owls", "Text")
