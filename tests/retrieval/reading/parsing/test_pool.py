"""Parser processes: limits, deadlines, replacement, what they may not do. All are real ones."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from retrieval.reading.bounded import Unreadable
from retrieval.reading.parsing.pool import ParserPool
from retrieval.reading.parsing.wire import ParseLimits
from tests.retrieval.reading.parsing import make
from tests.retrieval.reading.parsing.processes import DEADLINE_S, children, only_child, until

REPO = Path(__file__).parents[4]
# html.parser looks for the end of each of these instructions to the end of the file.
SLOW = b"<?" * 1_000_000


def file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def text(pool: ParserPool, path: Path) -> str:
    return pool.parse(path).result(DEADLINE_S).text


def test_pool_starts_no_process_before_a_file_needs_one():
    with ParserPool():
        assert children() == set()


def test_pool_uses_its_process_again_and_ends_it(tmp_path):
    with ParserPool(processes=1) as pool:
        text(pool, file(tmp_path, "a.csv", b"a,b\n1,2"))
        first = only_child()
        with pytest.raises(Unreadable, match="not a notebook"):
            text(pool, file(tmp_path, "b.ipynb", b"{"))
        assert text(pool, file(tmp_path, "c.HTM", b"<p>one")) == "one"
        assert children() == {first}
    assert children() == set()


def test_pool_parses_side_by_side(tmp_path):
    files = [file(tmp_path, f"{n}.csv", b"n\nrow %d" % n) for n in range(20)]
    with ParserPool(processes=3) as pool:
        futures = [pool.parse(path) for path in files]
        texts = [future.result(DEADLINE_S).text for future in futures]
        assert 1 <= len(children()) <= 3
    assert texts == [f"- n: row {n}" for n in range(20)]


def test_pool_replaces_a_process_after_so_many_files(tmp_path):
    path = file(tmp_path, "a.csv", b"a,b\n1,2")
    with ParserPool(ParseLimits(files=2), processes=1) as pool:
        text(pool, path)
        first = only_child()
        text(pool, path)
        assert children() == set()
        text(pool, path)
        assert only_child() != first


def test_pool_replaces_a_process_that_keeps_much_memory(tmp_path):
    with ParserPool(ParseLimits(memory_bytes=240 << 20), processes=1) as pool:
        text(pool, file(tmp_path, "small.csv", b"a,b\n1,2"))
        first = only_child()
        text(pool, file(tmp_path, "large.html", b"<p>" + b"x" * (20 << 20)))
        text(pool, file(tmp_path, "small.csv", b"a,b\n1,2"))
        assert only_child() != first


def test_pool_replaces_a_process_that_died_idle(tmp_path):
    path = file(tmp_path, "a.csv", b"a,b\n1,2")
    with ParserPool(processes=1) as pool:
        text(pool, path)
        os.kill(only_child(), signal.SIGKILL)
        until(0)
        assert text(pool, path) == "- a: 1; b: 2"


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (ParseLimits(cpu_s=1, wall_s=DEADLINE_S), "needs more than 1 s of processor time"),
        (ParseLimits(wall_s=0.3), "takes longer than 0.3 s"),
    ],
)
def test_pool_slow_file_fails_alone(tmp_path, limits, reason):
    with ParserPool(limits, processes=1) as pool:
        with pytest.raises(Unreadable, match=f"^{reason}$"):
            text(pool, file(tmp_path, "slow.html", SLOW))
        assert children() == set()


def test_pool_cpu_time_is_each_files_own(tmp_path):
    # Each takes some 0.3 s; together they need more than the limit.
    path = file(tmp_path, "a.html", b"<b>x</b>" * 40_000)
    with ParserPool(ParseLimits(cpu_s=2), processes=1) as pool:
        lengths = {len(text(pool, path)) for _ in range(20)}
    assert lengths == {40_000}


def test_pool_swollen_file_fails_alone(tmp_path):
    with ParserPool(ParseLimits(memory_bytes=100 << 20), processes=1) as pool:
        with pytest.raises(Unreadable, match="^needs more than 100 MiB of memory$"):
            text(pool, file(tmp_path, "a.html", b"x" * (60 << 20)))
        assert text(pool, file(tmp_path, "b.html", b"<p>one")) == "one"


def test_pool_killed_process_fails_its_file_alone(tmp_path):
    with ParserPool(processes=1) as pool:
        parsed = pool.parse(file(tmp_path, "slow.html", SLOW))
        os.kill(only_child(), signal.SIGKILL)
        with pytest.raises(Unreadable, match=r"^its parser ended \(SIGKILL\)$"):
            parsed.result(DEADLINE_S)
        assert text(pool, file(tmp_path, "b.html", b"<p>one")) == "one"


def test_pool_closed_while_parsing_ends_at_once(tmp_path):
    pool = ParserPool(processes=1)
    parsed = [pool.parse(file(tmp_path, f"{n}.html", SLOW)) for n in range(3)]
    only_child()
    closing = threading.Thread(target=pool.close)
    closing.start()
    closing.join(DEADLINE_S)
    assert not closing.is_alive()
    assert children() == set()
    assert isinstance(parsed[0].exception(DEADLINE_S), Unreadable)
    assert all(future.done() for future in parsed)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.html", b"", "empty"),
        ("a.html", b"<p> \x00 <script>x</script>", "empty"),
        ("a.csv", b"\n\n", "empty"),
        ("a.pdf", b"\x00" * 1000, "damaged: "),
        ("a.pdf", make.pdf_cyclic_pages(), "damaged: "),
        (
            "a.docx",
            make.docx("<w:tbl><w:tr><w:tc>" * 3000 + "</w:tc></w:tr></w:tbl>" * 3000),
            "nes",
        ),
        ("a.ipynb", b'{"x": ' + b"[" * 100_000, "nested too deep"),
        ("a.html", b"<p>" + b"x" * 2_000, "more than 1,000 characters of text"),
    ],
)
def test_pool_unreadable_file_says_why(tmp_path, name, content, reason):
    with ParserPool(ParseLimits(chars=1_000), processes=1) as pool:
        with pytest.raises(Unreadable, match=f"^{reason}"):
            text(pool, file(tmp_path, name, content))
        assert len(children()) == 1


def test_pool_text_and_reasons_hold_no_control_characters(tmp_path):
    page = b"<title>a\x1b[31m\nb</title><p>x\x00y\r\nz&#xd800;\x0b&#8232;"
    with ParserPool(processes=1) as pool:
        found = pool.parse(file(tmp_path, "a.html", page)).result(DEADLINE_S)
        assert (found.title, found.text) == ("a[31m b", "xy z\ufffd")
        broken = make.docx(more={"word/\x1b[31m.xml": b"<"})
        with pytest.raises(Unreadable, match=r"^damaged: word/\[31m.xml: unclosed token"):
            text(pool, file(tmp_path, "a.docx", broken))


def test_parser_process_inherits_no_environment(tmp_path):
    with ParserPool(processes=1) as pool:
        text(pool, file(tmp_path, "a.csv", b"a,b\n1,2"))
        assert Path(f"/proc/{only_child()}/environ").read_bytes() == b""


def test_parser_process_has_a_network_of_its_own_where_the_kernel_allows(tmp_path):
    flags = "0x40000000 | (0x10000000 if os.geteuid() else 0)"
    probe = f"import ctypes, os, sys; sys.exit(ctypes.CDLL(None).unshare({flags}) != 0)"
    if subprocess.run([sys.executable, "-c", probe], timeout=DEADLINE_S).returncode:
        pytest.skip("this kernel gives no process a network namespace of its own")
    with ParserPool(processes=1) as pool:
        text(pool, file(tmp_path, "a.csv", b"a,b\n1,2"))
        assert os.readlink(f"/proc/{only_child()}/ns/net") != os.readlink("/proc/self/ns/net")


CONFINED = """
import os, resource, socket, subprocess, sys, ctypes
from retrieval.reading.parsing.sandbox import allow_cpu, confine
from retrieval.reading.parsing.wire import ParseLimits
confine(ParseLimits(memory_bytes=1 << 30))
allow_cpu(5)
attempts = {
    "socket": lambda: socket.socket(),
    "resolve": lambda: socket.getaddrinfo("localhost", 80),
    "program": lambda: subprocess.run(["true"]),
    "system": lambda: os.system("true"),
    "fork": lambda: os.fork(),
    "read": lambda: open("/etc/passwd"),
    "read fd": lambda: os.open("/etc/passwd", os.O_RDONLY),
    "read beside our code": lambda: open(sys.argv[1] + "/README.md"),
    "write": lambda: open(sys.argv[1] + "/retrieval/new.py", "w"),
    "remove": lambda: os.remove("/etc/passwd"),
    "rename": lambda: os.rename("/etc/passwd", "/etc/x"),
    "native": lambda: ctypes.CDLL("libm.so.6"),
    "kill": lambda: os.kill(os.getppid(), 0),
}
for name, attempt in attempts.items():
    try:
        attempt()
        print(name, "was allowed")
    except PermissionError as exc:
        assert "a parser may not" in str(exc), exc
for limit in "AS", "CORE", "FSIZE", "NOFILE", "NPROC":
    print(limit, *resource.getrlimit(getattr(resource, "RLIMIT_" + limit)))
print("CPU", resource.getrlimit(resource.RLIMIT_CPU)[0] <= 8)
import email.mime.text  # Python's own modules stay open
try:
    bytes(2 << 30)
    print("memory was given")
except MemoryError:
    print("no memory")
"""


def test_parser_process_may_compute_and_nothing_else():
    # Coverage, which a measured run has in every Python, may not write its file in there either.
    unmeasured = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    confined = subprocess.run(
        [sys.executable, "-c", CONFINED, str(REPO)],
        cwd=REPO,
        env=unmeasured,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert confined.stderr == ""
    assert confined.stdout.split("\n") == [
        f"AS {1 << 30} {1 << 30}",
        "CORE 0 0",
        "FSIZE 0 0",
        "NOFILE 32 32",
        "NPROC 0 0",
        "CPU True",
        "no memory",
        "",
    ]
