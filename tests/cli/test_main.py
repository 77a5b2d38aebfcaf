"""The command line: exit codes, one-line errors, indexing and evaluation."""

import json
import re
import socket
from pathlib import Path

from tests.support.cli import run


def test_version_is_printed() -> None:
    done = run("--version")
    assert done.returncode == 0
    assert re.search(r"\d+\.\d+\.\d+", done.stdout)


def test_help_names_the_commands() -> None:
    done = run("--help")
    assert {"up", "serve", "index", "eval"} <= set(done.stdout.split())


def test_port_taken_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("up", API_PORT=port, RETRIEVAL_INDEX_DIR=str(tmp_path))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert port in line and "API_PORT" in line
    assert list(tmp_path.iterdir()) == []


def test_setting_bad_is_one_line_and_exit_code_2() -> None:
    done = run("serve", API_PORT="many")
    assert done.returncode == 2
    assert done.stderr.startswith("ragrelay: API_PORT:")
    assert len(done.stderr.splitlines()) == 1


def test_index_builds_lists_what_it_skips_and_reuses(tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "a.md").write_text("# A\n\nThe aardvark eats ants.")
    (pages / "empty.txt").write_text("")
    (pages / "bad.txt").write_bytes(b"\xff\xfe\x00\x81 broken")
    index_dir = tmp_path / "index"
    first = run("index", str(pages), RETRIEVAL_INDEX_DIR=str(index_dir))
    assert first.returncode == 0, first.stderr
    assert "1 documents, 1 passages" in first.stdout
    assert "empty.txt" in first.stderr and "bad.txt" in first.stderr
    again = run("index", str(pages), RETRIEVAL_INDEX_DIR=str(index_dir))
    assert "unchanged" in again.stdout


def test_index_nothing_to_index_fails_and_keeps_the_old(tmp_path: Path) -> None:
    index_dir = tmp_path / "index"
    (tmp_path / "a.md").write_text("# A\n\nThe aardvark eats ants.")
    run("index", str(tmp_path / "a.md"), RETRIEVAL_INDEX_DIR=str(index_dir))
    before = (index_dir / "CURRENT").read_bytes()
    failed = run("index", str(tmp_path / "nowhere"), RETRIEVAL_INDEX_DIR=str(index_dir))
    assert failed.returncode == 1
    assert "nowhere" in failed.stderr
    assert (index_dir / "CURRENT").read_bytes() == before


def test_eval_of_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"data": 1}')
    done = run("eval", "squad", str(tmp_path / "broken.json"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("ragrelay: not SQuAD JSON")


def test_eval_qrels_prints_the_table(tmp_path: Path) -> None:
    documents = [
        {"id": "1", "title": "Peru", "text": "Lima is the capital of Peru."},
        {"id": "2", "title": "Tea", "text": "Green tea is brewed at eighty degrees."},
    ]
    queries = [{"id": "q1", "text": "capital of Peru"}, {"id": "q2", "text": "how to brew tea"}]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\t1\t1\nq2\t2\t1\n")
    done = run("eval", "qrels", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "nDCG" in done.stdout and "@10" in done.stdout
    assert "1.000" in done.stdout


def test_selftest_passes_here() -> None:
    done = run("selftest")
    assert done.returncode == 0, done.stderr


def test_models_pull_names_the_folders() -> None:
    done = run("models", "pull")
    assert done.returncode == 0, done.stderr
    assert "all-MiniLM-L6-v2: " in done.stdout


def test_models_pull_unknown_model_is_one_line(tmp_path: Path) -> None:
    done = run("models", "pull", RETRIEVAL_EMBEDDING_MODEL=f"{tmp_path}/none", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_keys_without_a_store_is_one_line(tmp_path: Path) -> None:
    done = run("keys", "list", RETRIEVAL_INDEX_DIR=str(tmp_path))
    assert done.returncode == 1
    assert "CB_REDIS_URL" in done.stderr
