"""The view of the log, against servers whose logs hold known answers."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.page.browser import Browser, audited, opened
from tests.page.logged import HOSTILE, logged, mixed
from tests.support.engine import FakeEngine
from tests.support.harness import Client
from tests.support.waiting import eventually

SHOWN = 'await page.waitForSelector(".log:not([hidden])[aria-busy=false]");'
ROWS = "return page.locator(\"[aria-label='Newest answers'] tbody tr\").count()"
ADMIN = "right-key-0123456789"


@pytest.fixture(scope="module")
def full(
    _engine: FakeEngine, index_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """A server whose log holds all that happens."""
    file = tmp_path_factory.mktemp("log") / "log.sqlite"
    with logged(file, _engine, index_dir, mixed()) as client:
        yield client


@pytest.fixture
def view(browser: Browser, full: Client) -> Browser:
    opened(browser, full, "analytics")
    browser.run(SHOWN)
    return browser


def told(client: Client, path: str) -> Any:
    return client.get(f"/analytics/{path}").json()


def card(browser: Browser, name: str) -> str:
    selector = json.dumps(f'#analytics [class~=card][aria-label="{name}"]')
    text: str = browser.run(f"return page.innerText({selector})")
    return " ".join(text.split())


def choose(browser: Browser, label: str) -> list[str]:
    """Choose a window, wait for its figures, and return what was asked of the server."""
    asked: list[str] = browser.run(
        f"""const asked = [];
        page.on("request", (request) => asked.push(request.url()));
        await page.click('.segments >> text="{label}"'); {SHOWN}
        return asked;"""
    )
    return asked


def test_figures_are_those_of_the_routes(view: Browser, full: Client) -> None:
    summary, savings = told(full, "summary"), told(full, "savings")
    answers = card(view, "Answers")
    assert f"{summary['answers']} answers" in answers
    assert f"{summary['outcomes']['ok'] * 100 / summary['answers']:.0f} % ok, 1 failed" in answers
    assert f"{summary['unanswered']} found nothing" in answers
    assert f"€ {summary['cost_eur']:.2f} cost" in answers
    assert f"95 % within {summary['latency_ms']['p95'] / 1000:.1f} s" in answers
    assert "63 % helpful, of 8 judged" in answers
    assert "engine failed 1 " in card(view, "How they ended")
    assert "engine_down 1" in card(view, "How they ended")
    saved = card(view, "Saved by the cache")
    assert f"€ {savings['eur']:.4f} and {savings['seconds']:.1f} s of waiting" in saved
    assert "cache, same 6" in saved
    counted = f"{summary['prompt_tokens']:,}"
    assert f"tokens of prompts {counted}" in card(view, "Tokens and feedback")


def test_engines_are_rows_of_a_table(view: Browser, full: Client) -> None:
    first, second = told(full, "engines")["engines"]
    assert (first["answers"], second["model"]) == (22, "org/model-a")
    rows = view.run(
        """return page.locator('[aria-label="Answers by engine and model"] tbody tr')
          .allInnerTexts()"""
    )
    assert rows[0].split("\t")[:3] == ["tgi · m", "22", "1"]
    assert rows[1].split("\t")[:4] == ["tgi · model-a", "12", "0", "1,320"]
    assert rows[1].split("\t")[5:7] == ["900 ms", "1.5 s"]


def test_experiment_is_shown_by_variant_with_its_verdict(view: Browser, full: Client) -> None:
    report = told(full, "experiments/shorter")
    text = card(view, "Experiment shorter")
    assert f"By feedback: {report['verdict']}." in text
    for one in report["variants"]:
        assert f"{one['variant']} {one['answers']} {one['failed']} " in text
    low = report["variants"][0]["down_rate_95"]["low"]
    assert f"25 % ({low * 100:.0f} to " in text


def test_questions_and_newest_answers_are_text(view: Browser) -> None:
    failing = card(view, "Failed or found nothing")
    assert HOSTILE in failing and "Nowhere? 0 1" in failing and "Plain" not in failing
    assert HOSTILE in card(view, "Newest answers")
    found = view.run(
        """return page.evaluate(() => [window.hit ?? null,
          document.querySelectorAll("#analytics :is(img, script)").length])"""
    )
    assert found == [None, 0]
    assert view.run("return seen") == []


def test_window_that_is_chosen_is_asked_for(view: Browser, full: Client) -> None:
    asked = choose(view, "1 h")
    assert len(asked) == 6
    assert all("hours=1&" in url + "&" for url in asked)
    assert f"{told(full, 'summary?hours=1')['answers']} answers" in card(view, "Answers")
    pressed = "return page.locator('.segments [aria-pressed=true]').allInnerTexts()"
    assert view.run(pressed) == ["1 h"]
    assert "the last hour" in view.run('return page.innerText("#analytics .over [role=status]")')


def test_newest_answers_go_on_and_are_filtered(view: Browser, full: Client) -> None:
    assert view.run(ROWS) == 25
    view.run(
        """const more = page.locator("#analytics").getByText("Show more");
        await more.click();
        await more.waitFor({ state: "hidden" });"""
    )
    assert view.run(ROWS) == told(full, "summary")["answers"] == 41
    for value, count in [("outcome=engine_error", 1), ("unanswered=true", 1), ("outcome=ok", 25)]:
        view.run(
            f"""await page.selectOption("#ended", "{value}");
            await page.waitForFunction((count) =>
              document.querySelectorAll("[aria-label='Newest answers'] tbody tr").length === count,
              {count});"""
        )
    choose(view, "1 h")
    assert view.run('return page.inputValue("#ended")') == "outcome=ok"
    assert view.run(ROWS) == 19


def test_log_without_text_says_so(
    browser: Browser, engine: FakeEngine, index_dir: Path, tmp_path: Path
) -> None:
    with logged(tmp_path / "log", engine, index_dir, text="off") as client:
        opened(browser, client, "analytics")
        browser.run('await page.waitForSelector("text=No answers in the last 24 hours");')
        client.post("/query", {"query": "What is the capital of France?"})
        eventually(lambda: told(client, "summary")["answers"] == 1, within_s=20)
        browser.run(f'await page.click("text=Refresh"); {SHOWN}')
        assert "LOG_TEXT is off" in card(browser, "Failed or found nothing")
        assert "Question" not in card(browser, "Newest answers")
        assert "No answer came from the cache." in card(browser, "Saved by the cache")


def test_server_without_a_log_says_how_to_have_one(browser: Browser, client: Client) -> None:
    opened(browser, client, "analytics")
    browser.run('await page.waitForSelector("text=This server keeps no log");')
    assert "DATABASE_URL" in browser.run('return page.innerText("#analytics .notice")')


def test_database_that_is_down_is_asked_again(browser: Browser, full: Client) -> None:
    told = {
        "error": {"code": "database_down", "message": "x", "request_id": "r", "retryable": True}
    }
    browser.run(
        f"""let left = 1;
        await page.route("**/analytics/summary*", (route) => left-- > 0 ? route.fulfill({{
          status: 503, headers: {{ "Retry-After": "1" }}, contentType: "application/json",
          body: {json.dumps(json.dumps(told))} }}) : route.continue());"""
    )
    opened(browser, full, "analytics")
    browser.run('await page.waitForSelector("text=The log’s database does not answer");')
    assert browser.run('return page.locator(".log").isVisible()') is False
    browser.run(SHOWN)
    assert browser.run('return page.locator("#analytics .notice").isVisible()') is False


def test_part_that_fails_leaves_the_others(browser: Browser, full: Client) -> None:
    browser.run('await page.route("**/analytics/engines*", (route) => route.abort());')
    opened(browser, full, "analytics")
    browser.run(SHOWN)
    assert "The server does not answer." in card(browser, "Engines")
    assert "41 answers" in card(browser, "Answers")


def test_answers_of_another_choice_do_not_stay_when_reading_fails(view: Browser) -> None:
    view.run('await page.route("**/analytics/queries*", (route) => route.abort());')
    choose(view, "1 h")
    assert view.run(ROWS) == 0
    assert "The server does not answer." in card(view, "Newest answers")


def test_key_is_asked_for_and_one_without_the_scope_is_told(
    browser: Browser, engine: FakeEngine, index_dir: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "index"
    shutil.copytree(index_dir, copy)
    auth = {"enabled": True, "api_key": ADMIN}
    with logged(tmp_path / "log", engine, copy, mixed()[:3], auth=auth) as client:
        opened(browser, client, "analytics")
        browser.run('await page.waitForSelector("dialog"); await page.click("text=Cancel");')
        browser.run('await page.waitForSelector(".notice >> text=A key is needed");')
        forbidden = {"error": {"code": "forbidden", "message": "x", "request_id": "r"}}
        browser.run(
            f"""let left = 1;
            await page.route("**/analytics/summary*", (route) => left-- > 0 ? route.fulfill({{
              status: 403, contentType: "application/json",
              body: {json.dumps(json.dumps(forbidden))} }}) : route.continue());
            await page.click("text=Refresh");
            await page.waitForSelector("text=Your key may not read the log");
            await page.click("text=Refresh");
            await page.fill("#key-field", "{ADMIN}"); await page.click("dialog .main"); {SHOWN}"""
        )
        assert "3 answers" in card(browser, "Answers")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_view_has_no_serious_barrier(browser: Browser, full: Client, scheme: str) -> None:
    browser.fresh(colorScheme=scheme)
    opened(browser, full, "analytics")
    browser.run(SHOWN)
    assert audited(browser) == []


def test_phone_scrolls_tables_in_their_own_boxes(browser: Browser, full: Client) -> None:
    browser.fresh(viewport={"width": 320, "height": 640})
    opened(browser, full, "analytics")
    browser.run(SHOWN)
    widths = browser.run(
        """return page.evaluate(() => [document.documentElement.scrollWidth,
          ...[...document.querySelectorAll(".scroll")].map((box) => box.scrollWidth)])"""
    )
    assert widths[0] <= 320 < max(widths[1:])


def test_all_is_reached_by_keyboard_and_shows_its_focus(view: Browser) -> None:
    met = view.run(
        """const met = [];
        await page.focus(".segments button >> nth=0");
        for (let n = 0; n < 12; n++) {
          met.push(await page.evaluate(() => {
            const one = document.activeElement;
            return [one.ariaLabel || one.textContent || one.id, getComputedStyle(one).outlineStyle];
          }));
          await page.keyboard.press("Tab");
        }
        return met;"""
    )
    outlines = dict(met[1:])
    for name in ("30 days", "Refresh", "Experiment shorter by variant", "Newest answers"):
        assert outlines[name] != "none"
    assert outlines["Show more"] != "none"
