"""The views of documents and status on a server of their own, which they change."""

from tests.page.browser import Browser, opened
from tests.support.harness import Client


def handed(name: str, text: str) -> str:
    """JavaScript that picks one file."""
    return f"""
    await page.setInputFiles("#files",
      {{ name: {name!r}, mimeType: "text/markdown", buffer: Buffer.from({text!r}) }});
    await page.waitForFunction(() => /added|updated|unchanged|Failed/
      .test(document.querySelector(".jobs li [role=status]")?.textContent));
    return page.innerText(".jobs li");
    """


def test_documents_are_listed_and_filtered(browser: Browser, library: Client) -> None:
    opened(browser, library, "documents")
    browser.run('await page.waitForSelector(".documents li");')
    browser.run('await page.fill("#filter", "peru");')
    browser.run(
        'await page.waitForFunction(() => document.querySelectorAll(".documents li").length === 1);'
    )
    assert "peru.md" in browser.run('return page.innerText(".documents li")')
    browser.run('await page.fill("#filter", "zzz"); await page.waitForSelector("text=Nothing");')


def test_upload_is_indexed_answered_from_and_deleted(browser: Browser, library: Client) -> None:
    opened(browser, library, "documents")
    told = browser.run(handed("chad.md", "# Chad\n\nThe capital of Chad is N'Djamena."))
    assert "1 added" in told
    assert browser.run("return page.innerText('.documents li:has-text(\"chad.md\")')")
    assert "1 unchanged" in browser.run(
        handed("chad.md", "# Chad\n\nThe capital of Chad is N'Djamena.")
    )
    search = library.post("/search", {"query": "capital of Chad"}).json()
    assert search["hits"][0]["doc_id"] == "chad.md"
    browser.run(
        """
        await page.click('[aria-label="Delete Chad"]');
        await page.click('dialog >> text="Keep it"');
        await page.click('[aria-label="Delete Chad"]');
        await page.click('dialog .danger');
        await page.waitForSelector('[aria-label="Delete Chad"]', { state: "detached" });
        """
    )
    hits = library.post("/search", {"query": "capital of Chad"}).json()["hits"]
    assert "chad.md" not in [hit["doc_id"] for hit in hits]


def test_upload_by_drop_and_of_what_cannot_be_read(browser: Browser, library: Client) -> None:
    opened(browser, library, "documents")
    browser.run(
        """
        await page.evaluate(() => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File(["no pdf"], "broken.pdf"));
          document.querySelector(".drop").dispatchEvent(new DragEvent("drop", { dataTransfer }));
        });
        await page.waitForSelector(".jobs .warn, .jobs .failed");
        """
    )
    assert "broken.pdf" in browser.run('return page.innerText(".jobs li")')


def test_server_without_documents_says_so(browser: Browser, library: Client) -> None:
    browser.run('await page.route("**/documents?*", (route) => route.fulfill({ status: 404 }));')
    opened(browser, library, "documents")
    browser.run('await page.waitForSelector("text=This server does not list documents.");')


def test_status_shows_parts_and_rolls_back(browser: Browser, library: Client) -> None:
    opened(browser, library, "documents")
    browser.run(handed("mali.md", "# Mali\n\nBamako lies on the Niger."))
    before = library.get("/generations").json()
    older = next(one["id"] for one in before["generations"] if one["id"] != before["current"])
    opened(browser, library, "status")
    browser.run('await page.waitForSelector("section[aria-label=Index] li");')
    text = browser.run('return page.innerText("#status")')
    assert text.count("serving") == 1
    for said in ("Ready.", "redis ledger", "llamacpp", "The cache is off.", "of \u20ac 5.00"):
        assert said in text
    browser.run(
        f"""
        await page.click('[aria-label="Roll back to {older}"]');
        await page.click('dialog .main');
        await page.waitForSelector('[aria-label="Roll back to {before["current"]}"]');
        """
    )
    assert library.get("/generations").json()["current"] == older


def test_status_draws_latency(browser: Browser, library: Client) -> None:
    opened(browser, library, "status")
    browser.run(
        """
        await page.waitForSelector("section[aria-label=Index] li");
        await page.evaluate(async () => {
          const headers = { "Content-Type": "application/json" };
          const body = JSON.stringify({ query: "What is the capital of France?" });
          await (await fetch("query", { method: "POST", headers, body })).text();
        });
        await page.waitForSelector(".chart .whole.dot", { state: "attached" });
        """
    )
    assert "Latest: whole answer" in browser.run(
        'return page.getAttribute(".chart svg", "aria-label")'
    )
