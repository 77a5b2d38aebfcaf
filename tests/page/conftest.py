"""A real browser for the page: Debian's Chromium, driven by Playwright from the npm registry."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.page.browser import AXE, FLAGS, PLAYWRIGHT, Browser, opened, serving_documents
from tests.support.engine import FakeEngine
from tests.support.harness import Client
from tests.support.pages import PAGES


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


@pytest.fixture(scope="module")
def library(_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Three documents, for a module's tests to change."""
    documents = [
        {"id": name, "title": name.split(".")[0].title(), "text": text}
        for name, text in PAGES.items()
    ]
    with serving_documents(_engine, tmp_path_factory.mktemp("library"), documents) as client:
        yield client
