"""Nothing in questions, documents, titles and answers runs; everybody can read it; it is small."""

import gzip
import json
from pathlib import Path

import pytest

from tests.page.browser import Browser, ask, audited, opened, serving_documents
from tests.support.engine import FakeEngine, saying
from tests.support.harness import Client

HOSTILE = [
    "<script>window.hit=1</script>",
    "<img src=x onerror='window.hit=1'>",
    "<svg onload='window.hit=1'><animate onbegin='window.hit=1' attributeName=x dur=1s></svg>",
    "[click](javascript:window.hit=1)",
    "[click](JaVaScRiPt&colon;window.hit=1)",
    "[click](data:text/html,<script>window.hit=1</script>)",
    "![x](https://example.com/pixel.png)",
    "<javascript:window.hit=1>",
    "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>",
    "<form action='javascript:window.hit=1'><button>x</button></form>",
    "<math><mtext><table><mglyph><style><img src=x onerror='window.hit=1'>",
    "`</code><img src=x onerror=window.hit=1>`",
    "[a]: javascript:window.hit=1\n\n[a]",
    "<a href='https://example.com' style='position:fixed;inset:0' onclick='window.hit=1'>all</a>",
]


FOUND = """
return page.evaluate(() => ({
  hit: window.hit ?? null,
  tags: [...document.querySelectorAll(".conversation, .documents, .jobs, dialog")]
    .flatMap((root) => [...root.querySelectorAll("script, img, svg, iframe, form, style, math")])
    .map((one) => one.tagName),
  links: [...document.querySelectorAll(".conversation a[href]")].map((one) => one.href),
  handlers: [...document.querySelectorAll("*")].flatMap((one) =>
    [...one.attributes].filter(({ name }) => name.startsWith("on") ||
      name === "style" && one.closest(".answer"))).length,
}));
"""


def clicked_everything(browser: Browser) -> None:
    browser.run(
        """await page.evaluate(() => {
          for (const one of document.querySelectorAll(".answer a, .answer button")) one.click();
        });"""
    )


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_answer_and_question_do_nothing(
    page: Browser, engine: FakeEngine, hostile: str
) -> None:
    engine.script = saying([f"Paris. {hostile[:9]}", hostile[9:], f"\n\n{hostile}\n\n* {hostile}"])
    ask(page, f"Capital {hostile}")
    clicked_everything(page)
    found = page.run(FOUND)
    assert found == {"hit": None, "tags": [], "links": [], "handlers": 0}
    assert hostile.strip() in page.run('return page.textContent(".question")')
    assert page.run("return seen") == []


def test_hostile_document_and_title_do_nothing(
    browser: Browser, engine: FakeEngine, tmp_path: Path
) -> None:
    hostile = [one for one in HOSTILE if "\n" not in one]
    documents = [
        {"id": f"{n} {one}", "title": f"Zorblax {one}", "text": f"Zorblax {n}: {one}"}
        for n, one in enumerate(hostile)
    ]
    with serving_documents(engine, tmp_path, documents) as client:
        opened(browser, client, "documents")
        browser.run(
            """await page.waitForSelector('.documents li:has-text("Zorblax")');
            await page.click('.documents li:has-text("Zorblax") button');
            await page.click('dialog >> text="Keep it"');
            await page.waitForSelector('dialog form', {state: 'detached'});"""
        )
        found = browser.run(FOUND)
        assert (found["hit"], found["tags"]) == (None, [])
        opened(browser, client, "ask")
        ask(browser, "Zorblax zorblax zorblax?")
        assert "Zorblax" in browser.run('return page.innerText(".sources")')
        assert browser.run(FOUND) == {"hit": None, "tags": [], "links": [], "handlers": 0}
        assert browser.run("return seen") == []


def test_links_lead_outside_without_a_way_back(page: Browser, engine: FakeEngine) -> None:
    engine.script = saying(["See [this](https://example.com/a) and [that](docs/deploy.md)."])
    ask(page, "What is the capital of France?")
    links = page.run(
        """return page.locator(".answer a").evaluateAll((all) => all.map((a) =>
          [a.textContent, a.getAttribute("href"), a.target, a.rel]))"""
    )
    assert links[0] == ["this", "https://example.com/a", "_blank", "noopener noreferrer"]
    assert links[1][1] is None


def test_policy_refuses_injected_script_and_markup(page: Browser) -> None:
    refused = page.run(
        """return page.evaluate(() => {
          const made = document.createElement("script");
          const tries = [() => (made.textContent = "window.hit=1"),
                         () => (document.body.innerHTML = "<b>x</b>"),
                         () => setTimeout("window.hit=1")];
          const isRefused = (one) => { try { one(); return false; } catch { return true; } };
          return tries.filter(isRefused).length;
        });"""
    )
    assert refused == 3
    assert page.run("return page.evaluate(() => window.hit ?? null)") is None


SETTLED = {
    "documents": 'await page.waitForSelector("#documents li");',
    "status": 'await page.waitForSelector("section[aria-label=Index] li");',
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_views_have_no_serious_barrier(
    browser: Browser, library: Client, engine: FakeEngine, scheme: str
) -> None:
    browser.fresh(colorScheme=scheme)
    opened(browser, library)
    browser.run('await page.waitForSelector(".examples button");')
    assert audited(browser) == []
    engine.script = saying(
        ["Paris is the capital of France [1].\n\n| a |\n|-|\n| b |\n\nSo it is."]
    )
    ask(browser, "What is the capital of France?")
    browser.run('await page.click(".timing summary"); await page.click(".source .title >> nth=0");')
    assert audited(browser) == []
    browser.run('await page.click("text=Earlier answers");')
    assert audited(browser) == []
    for view in ("documents", "status"):
        opened(browser, library, view)
        browser.run(SETTLED[view])
        assert audited(browser) == []


def test_phone_has_no_sideways_scroll(
    browser: Browser, library: Client, engine: FakeEngine
) -> None:
    browser.fresh(viewport={"width": 320, "height": 640})
    opened(browser, library)
    engine.script = saying(["x" * 200, " `" + "y" * 200 + "`\n\n|a|b|c|\n|-|-|-|\n|1|2|3|"])
    ask(browser, "What is the capital of France?")
    wide = "return page.evaluate(() => document.documentElement.scrollWidth)"
    assert browser.run(wide) <= 320
    for view in ("documents", "status"):
        opened(browser, library, view)
        browser.run(SETTLED[view])
        assert browser.run(wide) <= 320


def test_everything_is_reached_by_keyboard(page: Browser, client: Client) -> None:
    """Tab goes from the skip link through header and box to the examples, always visibly."""
    page.run("await page.goto('about:blank');")
    page.run(f'await page.goto("{client.url}"); await page.waitForSelector(".examples button");')
    met = page.run(
        """const met = [];
        for (let n = 0; n < 11; n++) {
          await page.keyboard.press("Tab");
          met.push(await page.evaluate(() => {
            const one = document.activeElement;
            return [one.textContent || one.id, getComputedStyle(one).outlineStyle]; }));
        }
        return met;"""
    )
    names = [name for name, _ in met]
    for name in ("Skip to the content", "Documents", "Status", "Key", "question", "Ask"):
        assert name in names
    assert [name for name, style in met if style != "solid"] == []


def test_first_load_is_small_and_soon_painted(browser: Browser, client: Client) -> None:
    browser.run(
        f"""await page.goto({json.dumps(client.url)});
        await page.waitForSelector(".examples button");"""
    )
    sizes, paint_ms = browser.run(
        """return page.evaluate(() => [
          ["navigation", "resource"].flatMap((type) => performance.getEntriesByType(type))
            .map(({ name, transferSize }) => [name, transferSize]),
          performance.getEntriesByName("first-contentful-paint")[0].startTime ])"""
    )
    transferred = sum(size for _, size in sizes)
    kb, requests = transferred / 1000, len(sizes)
    print(f"first load: {kb:.0f} KB in {requests} requests, painted after {paint_ms:.0f} ms")
    assert {name.split("/")[2] for name, _ in sizes} == {client.url.split("/")[2]}
    assert transferred < 150_000


def test_files_are_packed_checked_and_nothing_else(client: Client) -> None:
    plain = client.get("/page/main.js")
    packed = client.get("/page/main.js", {"Accept-Encoding": "gzip, br"})
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    again = client.get("/page/main.js", {"If-None-Match": plain.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    for name in ("..%2fapp.py", "../routes/page.py", "nothing.js", "vendor/marked.LICENSE.txt"):
        assert client.get(f"/page/{name}").status == 404
    index = client.get("/")
    assert index.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in index.headers["content-security-policy"]
    assert index.body.count(b"modulepreload") == index.body.count(b".js") - 2
