"""What the page says when something is wrong, and how it goes on."""

import json
import shutil
from pathlib import Path

import pytest

from tests.page.browser import Browser, ask, opened
from tests.support.engine import FakeEngine, saying
from tests.support.harness import Client, live, settings_for

REFUSALS = {
    "engine_down": (503, "The language model does not answer"),
    "engine_overloaded": (429, "The language model is busy"),
    "budget_exhausted": (429, "The budget is used up"),
    "rate_limited": (429, "Too many questions at once"),
    "no_index": (503, "No documents yet"),
    "forbidden": (403, "Your key may not do this"),
}

CLOSED = 'await page.waitForSelector("dialog", { state: "detached" });'


def refusing(code: str, status: int, times: int = 1000) -> str:
    """JavaScript that has the server refuse questions so many times."""
    body = json.dumps({"error": {"code": code, "message": "told", "request_id": "r"}})
    return f"""
    let left = {times};
    await page.route("**/query/stream", (route) => left-- > 0 ? route.fulfill({{
      status: {status}, headers: {{ "Retry-After": "1" }}, contentType: "application/json",
      body: {json.dumps(body)} }}) : route.continue());
    """


@pytest.mark.parametrize("code", REFUSALS)
def test_refusal_is_said_in_words(page: Browser, code: str) -> None:
    status, title = REFUSALS[code]
    page.run(refusing(code, status))
    ask(page, "What is the capital of France?")
    notice = page.run('return page.innerText(".notice")')
    assert title in notice
    assert "Try again in 1 s." in notice


def test_loading_server_is_asked_again(page: Browser, engine: FakeEngine) -> None:
    engine.script = saying(["Paris."])
    page.run(refusing("loading", 503, times=1))
    ask(page, "What is the capital of France?", wait=False)
    page.run('await page.waitForSelector("text=The server is loading");')
    page.run('await page.waitForSelector(".ended .badges");')
    assert "Paris." in page.run('return page.innerText(".answer")')


def test_waiting_for_a_loading_server_can_be_stopped(page: Browser) -> None:
    page.run(refusing("loading", 503))
    ask(page, "What is the capital of France?", wait=False)
    page.run('await page.waitForSelector("text=The server is loading");')
    page.run('await page.keyboard.press("Escape"); await page.waitForSelector(".ended");')
    assert "Stopped" in page.run('return page.innerText(".notice")')


def test_offline_is_said_and_what_is_there_stays(page: Browser) -> None:
    ask(page, "What is the capital of France?")
    page.run("await context.setOffline(true);")
    page.run('await page.waitForSelector("#offline", { state: "visible" });')
    ask(page, "What is the capital of Peru?")
    assert "The server does not answer" in page.run('return page.innerText(".notice")')
    assert page.run('return page.innerText(".answer >> nth=0")') != ""
    page.run("await context.setOffline(false);")
    page.run('await page.waitForSelector("#offline", { state: "hidden" });')


def test_empty_index_leads_to_the_documents(
    browser: Browser, engine: FakeEngine, tmp_path: Path
) -> None:
    with live(settings_for(engine.url, tmp_path), wait=False) as (client, _):
        opened(browser, client)
        browser.run('await page.waitForSelector("text=There are no documents yet.");')
        browser.run('await page.click("text=Add some"); await page.waitForSelector("text=Drop");')


def test_key_is_asked_for_kept_for_the_tab_and_forgotten(
    browser: Browser, engine: FakeEngine, index_dir: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "index"
    shutil.copytree(index_dir, copy)
    auth = {"enabled": True, "api_key": "right-key-0123456789"}
    with live(settings_for(engine.url, copy, auth=auth)) as (client, _):
        opened(browser, client)
        browser.run('await page.waitForSelector("dialog"); await page.fill("#key-field", "wrong");')
        browser.run('await page.click("dialog .main");')
        browser.run('await page.waitForSelector("text=does not accept this key");')
        browser.run(
            """await page.fill("dialog:last-of-type #key-field", "right-key-0123456789");
            await page.click("dialog .main"); await page.waitForSelector(".examples button");"""
        )
        stored = """return page.evaluate(() =>
          [sessionStorage, localStorage].map((storage) => storage.getItem("ragrelay.key")));"""
        assert browser.run(stored) == ["right-key-0123456789", None]
        ask(browser, "What is the capital of France?")
        assert browser.run('return page.locator(".notice").count()') == 0
        browser.run('await page.click("#key"); await page.click("text=Forget the key");')
        browser.run(CLOSED)
        assert browser.run(stored) == [None, None]


def test_key_is_remembered_where_wished(
    browser: Browser, engine: FakeEngine, client: Client
) -> None:
    opened(browser, client)
    browser.run(
        """await page.click("#key"); await page.fill("#key-field", "mine");
        await page.check("dialog [type=checkbox]"); await page.click("dialog .main");"""
    )
    browser.run(CLOSED)
    assert browser.run('return page.evaluate(() => localStorage["ragrelay.key"])') == "mine"
