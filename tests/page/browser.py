"""A real browser: Debian's Chromium, driven by Playwright from the npm registry."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.engine import FakeEngine
from tests.support.harness import Client, live, settings_for
from tests.support.waiting import eventually

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


@contextmanager
def serving_documents(
    engine: FakeEngine, index_dir: Path, documents: Sequence[dict[str, str]]
) -> Iterator[Client]:
    """A server of its own whose documents came by its API."""
    with live(settings_for(engine.url, index_dir), wait=False) as (client, _):
        assert client.post("/documents", {"documents": documents}).status == 202
        eventually(lambda: client.get("/health/ready").status == 200, within_s=60)
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


AUDIT = """
const { readFileSync } = await import("node:fs");
await page.evaluate(readFileSync(%s, "utf8") + ";0");
const { violations } = await page.evaluate(() => axe.run(document));
return violations.filter(({ impact }) => impact === "serious" || impact === "critical")
  .map(({ id, nodes }) => [id, nodes.map(({ html, failureSummary }) => [html, failureSummary])]);
"""


def audited(browser: Browser) -> list[object]:
    """Serious and critical findings of axe-core on what is shown."""
    found: list[object] = browser.run(AUDIT % json.dumps(str(AXE)))
    return found
