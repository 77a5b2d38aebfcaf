"""A real browser for the page: Debian's Chromium, driven by Playwright from the npm registry."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PAGES
from tests.support.fake_engine import FakeEngine
from tests.support.harness import Client, eventually, live, settings_for

TOOLS = Path(sys.prefix) / "page-tools" / "node_modules"
PLAYWRIGHT = TOOLS / "playwright-core" / "index.mjs"
AXE = TOOLS / "axe-core" / "axe.min.js"
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)
WIDE: dict[str, object] = {
    "viewport": {"width": 1280, "height": 900},
    "colorScheme": "light",
    "reducedMotion": "reduce",
}


class Browser:
    """`run` executes JavaScript with Playwright's `page` at hand and returns what it returns."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def fresh(self, **options: object) -> None:
        """Begin with an empty profile."""
        self._tell({"options": {**WIDE, **options}})

    def run(self, code: str) -> Any:
        return self._tell({"code": code})

    def _tell(self, line: dict[str, object]) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(line) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the browser is gone"
        told = json.loads(answer)
        assert "failure" not in told, told["failure"]
        return told["told"]


@pytest.fixture(scope="session")
def _browser() -> Iterator[Browser]:
    chromium, node = shutil.which("chromium"), shutil.which("node")
    if chromium is None or node is None or not PLAYWRIGHT.exists() or not AXE.exists():
        pytest.skip("no chromium, no node, or no playwright: make .venv/page-tools")
    bridge = Path(__file__).parent / "bridge.mjs"
    environment = {
        **os.environ,
        "PLAYWRIGHT": PLAYWRIGHT.as_uri(),
        "CHROMIUM": chromium,
        "FLAGS": FLAGS,
    }
    process = subprocess.Popen(
        [node, str(bridge)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield Browser(process)
    finally:
        process.communicate(timeout=30)


@pytest.fixture
def browser(_browser: Browser) -> Browser:
    _browser.fresh()
    return _browser


@pytest.fixture
def page(browser: Browser, client: Client) -> Browser:
    """The page, open on the view that asks."""
    opened(browser, client)
    return browser


@contextmanager
def serving_documents(
    engine: FakeEngine, index_dir: Path, documents: Sequence[dict[str, str]]
) -> Iterator[Client]:
    """A server of its own whose documents came by its API."""
    with live(settings_for(engine.url, index_dir), wait=False) as (client, _):
        assert client.post("/documents", {"documents": documents}).status == 202
        eventually(lambda: client.get("/health/ready").status == 200, within_s=60)
        yield client


@pytest.fixture(scope="module")
def library(_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Three documents, for a module's tests to change."""
    documents = [
        {"id": name, "title": name.split(".")[0].title(), "text": text}
        for name, text in PAGES.items()
    ]
    with serving_documents(_engine, tmp_path_factory.mktemp("library"), documents) as client:
        yield client


def opened(browser: Browser, client: Client, view: str = "ask") -> None:
    browser.run(f"await page.goto({json.dumps(client.url + '/#' + view)});")


def ask(browser: Browser, question: str, *, wait: bool = True) -> None:
    """Ask by keyboard; `wait` until the answer has ended."""
    browser.run(
        f"""
        await page.fill("#question", {json.dumps(question)});
        await page.press("#question", "Enter");
        """
    )
    if wait:
        browser.run('await page.waitForSelector(".turn:last-child.ended");')
