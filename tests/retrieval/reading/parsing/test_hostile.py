"""A folder of hostile files: every good one is indexed, every bad one listed, memory is bounded."""

import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from retrieval.reading.parsing.wire import ParseLimits
from tests.retrieval.reading.parsing import make
from tests.retrieval.reading.parsing.index_folder import Outcome

REPO = Path(__file__).parents[4]
MIB = 1 << 20

GOOD = {
    "good.md": b"# Owls\n\nThey hunt.",
    "good.txt": b"Owls hunt.",
    "good.rst": b"Owls\n====\n\nThey hunt.",
    "good.html": b"<h1>Owls</h1><p>They hunt.",
    "good.csv": b"owl,size\nbarn,33",
    "good.tsv": b"owl\tsize\nbarn\t33",
    "good.ipynb": make.notebook({"cell_type": "markdown", "source": "# Owls"}),
    "good.docx": make.docx(make.heading("Owls", 1), make.paragraph("They hunt.")),
    "good.pdf": make.pdf([[(20, "Owls"), (10, "They hunt.")]]),
    "sub/folder/good.htm": b"<p>Owls",
    "name\nof two lines.html": b"<p>Owls",
    "UPPER.PDF": make.pdf([[(10, "Owls")]]),
    "nested tags.html": b"<div>" * 100_000 + b"Owls",
    "latin.html": b"<p>caf\xe9",
}

BAD: dict[str, tuple[bytes, str]] = {
    "zeros.txt": (bytes(MIB), "not text: byte 0 is zero"),
    "empty.pdf": (b"", "damaged: "),
    "zeros.pdf": (bytes(MIB), "damaged: "),
    "zeros.docx": (bytes(MIB), "damaged zip file"),
    "zeros.html": (bytes(MIB), "empty"),
    "zeros.csv": (bytes(MIB), "empty"),
    "zeros.ipynb": (bytes(MIB), "not a notebook"),
    "zeros.json": (bytes(MIB), "malformed JSON"),
    "zeros.jsonl.gz": (bytes(MIB), "damaged gzip"),
    "latin.csv": (b"a,b\ncaf\xe9", "not UTF-8 at byte 7"),
    "latin.rst": (b"caf\xe9", "not UTF-8 at byte 3"),
    "bomb.json.gz": (gzip.compress(bytes(300 * MIB), 1), "unpacks to more than 100 times"),
    "bomb.docx": (make.docx(more={"word/footnotes.xml": bytes(200 * MIB)}), "unpacks to more"),
    "many parts.docx": (make.zipped({f"{n}.xml": b"" for n in range(10_001)}), "more than 10,000"),
    "nested.docx": (make.zipped({"a.zip": make.zipped({"b": bytes(MIB)})}), "a zip file, but not"),
    "laughs.docx": (make.docx("&a9;", doctype=make.billion_laughs()), "word/document.xml declares"),
    "xxe.docx": (
        make.docx("&secret;", doctype=make.external_entity("/etc/passwd")),
        "word/document.xml declares",
    ),
    "deep.docx": (
        make.docx("<w:tbl><w:tr><w:tc>" * 5_000 + "</w:tc></w:tr></w:tbl>" * 5_000),
        "nested too deep",
    ),
    "line.csv": (b"a,b\n" + b"x" * (50 * MIB), "line 2: longer than"),
    "deep.ipynb": (b'{"a": ' * 1_000_000, "nested too deep"),
    "deep.json": (b"[" * 1_000_000, "malformed JSON"),
    "encrypted.pdf": (make.pdf_encrypted(), "encrypted: needs a password"),
    "cyclic.pdf": (make.pdf_cyclic_pages(), "damaged: "),
    "stacked.pdf": (make.pdf_stacked_flate(5, 1024 * MIB), "page 1: "),
    "blank.pdf": (make.pdf([[]]), "holds no text"),
    "pages.pdf": (make.pdf([[]] * 2_001), "more than 2,000 pages"),
    "wide.html": (b"<a " + b"a=b " * 10_000_000 + b">", "needs more than 1024 MiB of memory"),
    "large.pdf": (bytes(64 * MIB + 1), "larger than 64 MiB"),
}


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1024 * MIB)


SPECIAL: dict[str, tuple[Callable[[Path], object], str]] = {
    "gigabyte.txt": (_sparse, "larger than 64 MiB"),
    "gigabyte.jsonl": (_sparse, "line 1: longer than 64 MiB"),
    "pipe.pdf": (os.mkfifo, "not a regular file"),
    "device.csv": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "itself.txt": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "nowhere.html": (lambda path: path.symlink_to("gone"), "No such file or directory"),
    "above": (lambda path: path.symlink_to(".."), "read before"),
}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> Outcome:
    folder = tmp_path_factory.mktemp("hostile")
    corpus = folder / "corpus"
    (corpus / "sub" / "folder").mkdir(parents=True)
    for name, content in (GOOD | {name: content for name, (content, _) in BAD.items()}).items():
        (corpus / name).write_bytes(content)
    for name, (create, _) in SPECIAL.items():
        create(corpus / "sub" / name)
    (corpus / os.fsdecode(b"bad name \xff.pdf")).write_bytes(GOOD["good.pdf"])
    (corpus / "locked.txt").write_bytes(b"Owls")
    (corpus / "locked.txt").chmod(0)
    run = [sys.executable, "-m", "tests.retrieval.reading.parsing.index_folder"]
    ended = subprocess.run(
        [*run, str(folder / "index"), str(corpus)], cwd=REPO, capture_output=True, timeout=500
    )
    assert ended.stderr.decode() == ""
    return msgspec.json.decode(ended.stdout, type=Outcome)


def test_hostile_folder_every_good_file_is_indexed(outcome):
    readable_by_root = ["locked.txt"] if os.geteuid() == 0 else []
    assert outcome.indexed == sorted([*GOOD, *readable_by_root])


def test_hostile_folder_every_bad_file_is_listed_with_its_reason(outcome):
    expected = {name: reason for name, (_, reason) in (BAD | SPECIAL).items()}
    expected["bad name \\xff.pdf"] = "its name is not valid UTF-8"
    if os.geteuid() != 0:
        expected["locked.txt"] = "Permission denied"
    listed = {path.rpartition("/")[2]: reason for path, reason in outcome.skipped}
    assert len(listed) == len(outcome.skipped)
    assert listed.keys() == expected.keys()
    wrong = {name: reason for name, reason in listed.items() if expected[name] not in reason}
    assert wrong == {}


def test_hostile_folder_memory_is_bounded(outcome):
    # The largest file that is read is one line of 64 MiB, held twice while it grows.
    assert outcome.own_mib - outcome.before_mib < 400
    assert outcome.parser_mib <= ParseLimits().memory_bytes // MIB
