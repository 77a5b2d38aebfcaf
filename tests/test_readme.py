"""The README's examples, run as they stand against a live server."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engine import FakeEngine, saying
from tests.support.harness import Client, frames, live, settings_for, text_of

PAGES = [Path(__file__).parent.parent / "README.md"]
URL = "http://127.0.0.1:8000"


def blocks(language: str, containing: str) -> list[str]:
    found = []
    for page in PAGES:
        found += re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
    return [block for block in found if containing in block]


@pytest.fixture(scope="module")
def serving_readme(
    _engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """A server over the README itself, as `make run` makes it."""
    from retrieval.build.build import build_index
    from retrieval.models.embedder import load_embedder

    directory = tmp_path_factory.mktemp("readme-index")
    embedder = load_embedder("sentence-transformers/all-MiniLM-L6-v2", threads=1)
    build_index(directory, PAGES, embedder)
    embedder.close()
    with live(settings_for(_engine.url, directory)) as (client, _):
        yield client


@pytest.fixture
def answering(serving_readme: Client, engine: FakeEngine) -> Client:
    engine.script = saying(["TGI", " and", " vLLM"])
    return serving_readme


CURLS = blocks("sh", "curl")


def test_readme_shows_a_streamed_and_a_plain_curl() -> None:
    assert any("/query/stream" in block for block in CURLS)
    assert any("/query " in block for block in CURLS)


@pytest.mark.parametrize("block", CURLS)
def test_readme_curl_lines_answer(answering: Client, block: str) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    done = subprocess.run(
        ["sh", "-c", "curl -sS " + block.replace(URL, answering.url).removeprefix("curl ")],
        capture_output=True,
        timeout=30,
        check=True,
    )
    if "/stream" in block:
        stream = frames(done.stdout)
        assert (stream[0].event, stream[-1].event) == ("sources", "done")
        assert text_of(stream) == "TGI and vLLM"
    else:
        assert b'"answer":"TGI and vLLM"' in done.stdout


@pytest.mark.parametrize("block", blocks("sh", "ragrelay ask"))
def test_readme_ask_lines_show_the_answer_and_its_sources(answering: Client, block: str) -> None:
    done = subprocess.run(
        ["sh", "-ec", block.replace(".venv/bin", str(Path(sys.executable).parent))],
        env={"PATH": "/usr/bin:/bin", "RAGRELAY_URL": answering.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "TGI and vLLM" in done.stdout


@pytest.mark.parametrize("block", blocks("python", "urlopen"))
def test_readme_python_prints_the_answer(answering: Client, block: str) -> None:
    code = block.replace(URL, answering.url)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("TGI and vLLM", "")


@pytest.mark.parametrize("block", blocks("js", "fetch"))
def test_readme_javascript_prints_the_answer(answering: Client, block: str) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    code = block.replace(URL, answering.url)
    done = subprocess.run(
        [node, "--input-type=module", "-e", code], capture_output=True, text=True, timeout=30
    )
    assert done.stdout.split("\n") == ["TGI", " and", " vLLM", ""], done.stderr
