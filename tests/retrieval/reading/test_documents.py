"""Files and folders to documents, and what is listed as skipped."""

import gzip
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from retrieval.reading import bounded as reading
from retrieval.reading.documents import Skipped, read_documents
from retrieval.reading.parsing.wire import ParseLimits
from retrieval.types import Document
from tests.retrieval.reading.parsing import make
from tests.retrieval.reading.parsing.processes import children


def read(*paths: Path) -> tuple[dict[str, Document], dict[str, str]]:
    """Documents by id; reasons by file name."""
    documents, reasons = {}, {}
    for found in read_documents(paths):
        if isinstance(found, Skipped):
            reasons[Path(found.path).name] = found.reason
        else:
            assert found.doc_id not in documents
            documents[found.doc_id] = found
    return documents, reasons


def test_read_directory_takes_known_files_in_sorted_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.txt").write_text("two")
    (tmp_path / "a.md").write_text("intro\n\n# The *Title* `x`\n\ntext")
    (tmp_path / "c.markdown").write_text("no heading here")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / ".hidden.md").write_text("# secret")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.md").write_text("# secret")
    documents, reasons = read(tmp_path)
    assert [(doc.doc_id, doc.title) for doc in documents.values()] == [
        ("a.md", "The Title x"),
        ("b/two.txt", "two"),
        ("c.markdown", "c"),
    ]
    assert reasons == {}


def test_read_single_file_is_named_by_its_name(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    assert list(read(tmp_path / "a.txt")[0]) == ["a.txt"]


def test_read_unknown_suffix_named_directly_is_listed(tmp_path):
    (tmp_path / "a.exe").write_bytes(b"MZ")
    assert read(tmp_path / "a.exe")[1]["a.exe"].startswith(".exe files cannot be read; supported: ")


def test_read_formats_keep_their_order_and_take_title_heading_or_name(tmp_path):
    (tmp_path / "a.html").write_text("<title>Page</title><h1>Heading</h1>text")
    (tmp_path / "b.txt").write_text("# text")
    (tmp_path / "c.html").write_text("<h2>Heading</h2>text")
    (tmp_path / "d.csv").write_text("owl,size\nbarn,33\n")
    (tmp_path / "e.rst").write_text("Owls\n====\n\ntext\n")
    (tmp_path / "f.pdf").write_bytes(make.pdf([[(10, "text")]], title="Report"))
    documents, reasons = read(tmp_path)
    assert [(doc.doc_id, doc.title, doc.text) for doc in documents.values()] == [
        ("a.html", "Page", "# Heading\n\ntext"),
        ("b.txt", "b", "# text"),
        ("c.html", "Heading", "## Heading\n\ntext"),
        ("d.csv", "d", "- owl: barn; size: 33"),
        ("e.rst", "Owls", "# Owls\n\ntext"),
        ("f.pdf", "Report", "text"),
    ]
    assert reasons == {}


def test_read_document_with_a_damaged_page_is_read_and_the_page_listed(tmp_path):
    pages: list[Any] = [[(10, "one")], make.stream(b"x", "/Filter /NoSuchDecode")]
    (tmp_path / "a.pdf").write_bytes(make.pdf(pages))
    documents, reasons = read(tmp_path)
    assert documents["a.pdf"].text == "one"
    assert reasons["a.pdf"].startswith("page 2: ")


def test_read_limits_reach_the_parsers(tmp_path):
    (tmp_path / "a.pdf").write_bytes(make.pdf([[(10, "text")]] * 3))
    found = list(read_documents([tmp_path], limits=ParseLimits(pages=2)))
    assert [entry.reason for entry in found if isinstance(entry, Skipped)] == ["more than 2 pages"]


def test_read_broken_off_leaves_no_process(tmp_path):
    for number in range(10):
        (tmp_path / f"{number}.csv").write_text(f"n\nrow {number}\n")
    documents: Any = read_documents([tmp_path])
    assert next(documents).text == "- n: row 0"
    assert children()
    documents.close()
    assert children() == set()


def test_read_missing_path_is_listed(tmp_path):
    assert read(tmp_path / "none.md")[1] == {"none.md": "No such file or directory"}


def test_read_byte_order_mark_is_not_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert read(tmp_path)[0]["a.txt"].text == "hello"


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_read_jsonl_keeps_metadata_and_names_bad_lines(tmp_path, suffix):
    lines = [
        '{"id": "a", "title": "T", "text": "one", "year": 1999}',
        '{"_id": 7, "text": "two"}',
        "",
        '{"id": "broken", "text": ',
        '{"id": "no-text"}',
        '{"text": "no id"}',
        "[1]",
        '{"id": "empty", "text": "  "}',
        '{"id": "surrogate", "text": "\\ud800"}',
        '{"id": "a", "text": "again"}',
        '{"id": "deep", "text": ' + "[" * 5000 + "]" * 5000 + "}",
    ]
    raw = ("\r\n".join(lines)).encode() + b'\n{"id": "latin", "text": "\xe9"}'
    (tmp_path / f"c{suffix}").write_bytes(gzip.compress(raw) if "gz" in suffix else raw)
    found = list(read_documents([tmp_path]))
    documents = [entry for entry in found if isinstance(entry, Document)]
    assert documents == [
        Document("a", "T", "one", {"year": 1999}),
        Document("7", "", "two", {}),
    ]
    reasons = [entry.reason for entry in found if isinstance(entry, Skipped)]
    starts = ["line 4: malformed", "line 5: no text", "line 6: no id", "line 7: not an object"]
    starts += ["line 8: empty", "line 9: malformed", "doc_id 'a' was read before"]
    starts += ["line 11: malformed", "line 12: not UTF-8"]
    assert len(reasons) == len(starts)
    assert all(reason.startswith(start) for reason, start in zip(reasons, starts, strict=True))


def test_read_json_list_and_single_record(tmp_path):
    (tmp_path / "list.json").write_text('[{"id": "a", "text": "one"}, {"id": "b"}]')
    (tmp_path / "one.json").write_text('{"id": "c", "text": "three"}')
    documents, reasons = read(tmp_path)
    assert list(documents) == ["a", "c"]
    assert reasons == {"list.json": "record 2: no text"}


def test_read_squad_numbers_paragraphs_from_zero(tmp_path):
    squad = {
        "data": [
            {
                "title": "Super_Bowl",
                "paragraphs": [{"context": "first", "qas": []}, {"context": "second", "qas": []}],
            }
        ]
    }
    (tmp_path / "dev.json.gz").write_bytes(gzip.compress(json.dumps(squad).encode()))
    documents, _ = read(tmp_path)
    assert list(documents.values()) == [
        Document("Super_Bowl#0", "Super Bowl", "first"),
        Document("Super_Bowl#1", "Super Bowl", "second"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"", "empty"),
        ("a.md", b" \n\t ", "empty"),
        ("a.txt", b"caf\xe9", "not UTF-8 at byte 3"),
        ("a.txt", b"\xef\xbb\xbfa\0", "not text: byte 4 is zero"),
        ("a.rst", b"\n", "empty"),
        ("a.jsonl", b"\n\n", "empty"),
        ("a.json", b"", "empty"),
        ("a.json", b"[]", "empty"),
        ("a.json", b"{", "malformed JSON"),
        ("a.json", b'{"data": 3}', "is not SQuAD"),
        ("a.json", b"[" * 100_000, "malformed JSON"),
        ("a.jsonl.gz", b"not gzip", "damaged gzip"),
        ("a.json.gz", gzip.compress(b'{"id": "a"}' * 99, mtime=0)[:-9], "damaged gzip"),
    ],
)
def test_read_bad_file_is_listed_with_its_reason(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    documents, reasons = read(tmp_path)
    assert documents == {}
    assert reason in reasons[name]


def test_read_unreadable_file_is_listed(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    (tmp_path / "a.txt").write_text("secret")
    (tmp_path / "a.txt").chmod(0)
    (tmp_path / "b").mkdir(mode=0)
    assert read(tmp_path)[1] == {"a.txt": "Permission denied", "b": "Permission denied"}


@pytest.mark.parametrize("name", ["a.txt", "a.pdf", "a.json.gz"])
def test_read_too_large_file_is_listed_unread(tmp_path, name):
    with (tmp_path / name).open("wb") as file:
        file.truncate(1024 * reading.MAX_BYTES)
    assert read(tmp_path)[1] == {name: "larger than 64 MiB"}


def test_read_gzip_that_unpacks_too_large_is_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_BYTES", 2000)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(b" " * 2001))
    assert read(tmp_path)[1] == {"a.json.gz": "larger than 64 MiB"}


def test_read_many_bad_lines_are_listed_up_to_a_hundred(tmp_path):
    (tmp_path / "a.jsonl").write_text("x\n" * 1234 + '{"id": "a", "text": "one"}\n')
    found = list(read_documents([tmp_path]))
    reasons = [entry.reason for entry in found if isinstance(entry, Skipped)]
    assert len(reasons) == 101
    assert reasons[-1] == "and 1,134 more like these"
    assert [entry.doc_id for entry in found if isinstance(entry, Document)] == ["a"]


@pytest.mark.parametrize("name", ["bomb.json.gz", "bomb.jsonl.gz"])
@pytest.mark.parametrize("unit", [b" ", b"\n"])
def test_read_gzip_bomb_stops_early(tmp_path, name, unit):
    with gzip.open(tmp_path / name, "wb") as file:
        for _ in range(6):
            file.write(unit * 1024 * 1024)
    reasons = read(tmp_path)[1]
    assert "unpacks to" in reasons[name]


def test_read_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    assert read(tmp_path)[1] == {"a.txt": "not a regular file"}
    assert "not a regular file" in read(tmp_path / "a.txt")[1]["a.txt"]


def test_read_symbolic_links_are_followed_but_not_in_circles(tmp_path):
    root = tmp_path / "root"
    (root / "inner").mkdir(parents=True)
    (root / "inner" / "a.txt").write_text("text")
    (root / "inner" / "loop").symlink_to(root)
    (root / "self.txt").symlink_to("self.txt")
    (root / "gone.txt").symlink_to("nowhere")
    documents, reasons = read(root)
    assert list(documents) == ["inner/a.txt"]
    assert set(reasons) == {"loop", "self.txt", "gone.txt"}


def test_read_directory_is_walked_once_by_whatever_links_it_is_reached(tmp_path):
    below = tmp_path / "z"
    below.mkdir()
    (below / "a.txt").write_text("text")
    for level in range(30):  # 2**30 ways to the bottom
        above = tmp_path / f"{level}"
        above.mkdir()
        (above / "left").symlink_to(below)
        (above / "right").symlink_to(below)
        below = above
    found = list(read_documents([below]))
    assert [entry.doc_id for entry in found if isinstance(entry, Document)] == [
        "left/" * 30 + "a.txt"
    ]
    assert [entry.reason for entry in found if isinstance(entry, Skipped)] == ["read before"] * 30


def test_read_directories_deeper_than_a_hundred_are_listed(tmp_path):
    directory = tmp_path
    for _ in range(1_500):
        directory = directory / "d"
        directory.mkdir()
    (tmp_path / "a.txt").write_text("text")
    documents, reasons = read(tmp_path)
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # pytest's own removal is recursive
    assert list(documents) == ["a.txt"]
    assert reasons == {"d": "more than 100 directories deep"}


def test_read_same_file_twice_is_listed_as_read_before(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    documents, reasons = read(tmp_path, tmp_path)
    assert list(documents) == ["a.txt"]
    assert "was read before" in reasons["a.txt"]


def test_read_names_with_newline_and_without_utf8(tmp_path):
    (tmp_path / "a\nb.txt").write_text("text")
    (tmp_path / os.fsdecode(b"bad\xff.txt")).write_text("text")
    (tmp_path / "empty\n\x1b[31m.txt").write_text("")
    documents, reasons = read(tmp_path)
    assert list(documents) == ["a\nb.txt"]
    assert reasons == {
        "bad\\xff.txt": "its name is not valid UTF-8",
        "empty\\n\\x1b[31m.txt": "empty",
    }
