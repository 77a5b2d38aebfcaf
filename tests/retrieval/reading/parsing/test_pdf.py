import pytest

from retrieval.reading.bounded import Unreadable
from retrieval.reading.parsing import pdf
from retrieval.reading.parsing.wire import ParseLimits
from tests.retrieval.reading.parsing import make

BODY = "Owls hunt at night and are silent flyers all over the world but for the far south."


def parsed(content: bytes):
    return pdf.parse(content, ParseLimits())


def test_pdf_larger_type_becomes_headings_by_size():
    page = [(20, "Owls"), (10, BODY), (14, "Diet"), (10, BODY), (14, "Range"), (10, BODY)]
    text = parsed(make.pdf([page])).text
    headings = [line for line in text.split("\n") if line.startswith("#")]
    assert headings == ["# Owls", "## Diet", "## Range"]
    assert f"\n\n## Diet\n\n{BODY}\n\n" in text


def test_pdf_heading_over_two_lines_is_one():
    page = [(20, "All there is to know"), (20, "about owls"), (10, BODY)]
    assert parsed(make.pdf([page])).text.strip().startswith("# All there is to know about owls\n")


def test_pdf_long_text_in_large_type_is_no_heading():
    page = [(14, BODY), (14, BODY), (10, BODY), (10, BODY), (10, BODY)]
    assert "#" not in parsed(make.pdf([page])).text


def test_pdf_wrapped_lines_are_joined_and_hyphens_undone():
    lines = [
        "Owls live on all continents but one, and the well-known barn owl is an inter-",
        "national bird. It is light and hears well, and its face is a disc; this is a well-",
        "known fact.",
        "Second paragraph.",
    ]
    text = parsed(make.pdf([[(10, line) for line in lines]])).text
    assert "an international bird." in text
    assert "a well-known fact.\n\nSecond" in text


def test_pdf_rows_of_a_table_and_items_of_a_list_keep_their_lines():
    lines = [BODY, "Species Weight", "Barn owl 500 g", f"- {BODY}", f"- {BODY}", "1. one"]
    text = parsed(make.pdf([[(10, line) for line in lines]])).text
    assert text.split("\n")[-5:] == lines[-5:]


def test_pdf_lines_that_look_like_markdown_are_text():
    text = parsed(make.pdf([[(10, "# no heading"), (10, "---"), (10, "~~~")]])).text
    assert text.split() == ["\\#", "no", "heading", "\\---", "\\~~~"]


def test_pdf_running_titles_and_page_numbers_are_left_out():
    words = ["barn", "eagle", "snowy", "tawny", "pygmy", "elf"]
    pages = [
        [(10, "Bird Guide"), *[(10, f"The {word} owl.")] * 4, (10, f"Page {number}")]
        for number, word in enumerate(words)
    ]
    cover = [(20, "Bird Guide"), *[(10, "Owls.")] * 5]
    slide = [(10, "Bird Guide"), (10, "Page 7")]
    text = parsed(make.pdf([cover, *pages, slide])).text
    kept = [line for line in text.split("\n") if line]
    owls = [f"The {word} owl." for word in words for _ in range(4)]
    assert kept == ["# Bird Guide", *["Owls."] * 5, *owls, "Bird Guide", "Page 7"]


@pytest.mark.parametrize(
    ("title", "taken"),
    [("Owls of Europe", "Owls of Europe"), ("Microsoft Word - a.doc", ""), ("draft.docx", "")],
)
def test_pdf_title_is_the_files_own_unless_a_program_named_it(title, taken):
    assert parsed(make.pdf([[(10, "text")]], title=title)).title == taken


def test_pdf_damaged_page_is_a_note_and_the_others_stand():
    bad = make.stream(b"x", "/Filter /NoSuchDecode")
    found = parsed(make.pdf([[(10, "first")], bad, [(10, "third")]]))
    assert found.text.split() == ["first", "third"]
    assert [note.split(":")[0] for note in found.notes] == ["page 2"]


def test_pdf_notes_are_bounded():
    bad = make.stream(b"x", "/Filter /NoSuchDecode")
    notes = parsed(make.pdf([[(10, "text")], *[bad] * 30])).notes
    assert len(notes) == pdf.MOST_NOTES + 1
    assert notes[-1] == "and 10 more pages"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (make.pdf([[]]), "holds no text"),
        (make.pdf([[(10, "x")]] * 3), "more than 2 pages"),
        (make.pdf_encrypted(), "encrypted: needs a password"),
        (make.pdf([make.stream(b"x", "/Filter /NoSuchDecode")]), "page 1: "),
    ],
)
def test_pdf_unreadable_says_why(content, reason):
    with pytest.raises(Unreadable, match=f"^{reason}"):
        pdf.parse(content, ParseLimits(pages=2))


def test_pdf_one_endless_paragraph_takes_no_time():
    # In time square to its length this would take minutes.
    lines = [pdf.Line("the barn owl hunts at night over open fields and mar-", 10, True)] * 100_000
    text = pdf.to_markdown([*lines, pdf.Line("x" * 1_000_000, 10, True)])
    assert text.count("fields and marthe barn") == 99_999
