"""The view that asks, in a real browser against a live server and a scripted engine."""

import json

from tests.page.browser import Browser, ask
from tests.support.engine import FakeEngine, delta, saying, sending
from tests.support.harness import Client
from tests.support.waiting import eventually

FRANCE = ["Paris is the capital", " of France [1]. It lies", " on the Seine."]


def test_question_is_answered_with_sources(page: Browser, engine: FakeEngine) -> None:
    engine.script = saying(["Paris", " is **the** capital", " [1]."])
    ask(page, "What is the capital of France?")
    assert page.run('return page.innerText(".answer")') == "Paris is the capital 1."
    assert page.run('return page.innerText(".source >> nth=0")').startswith("1\nFrance")
    assert page.run('return page.locator(".answer strong").count()') == 1
    assert "39 + 3 tokens" in page.run('return page.innerText(".badges")')
    assert page.run("return seen") == []


def test_tokens_show_as_they_come(page: Browser, engine: FakeEngine) -> None:
    engine.script = saying(["Paris", *[" is"] * 400], every=0.05)
    ask(page, "What is the capital of France?", wait=False)
    page.run("await page.waitForFunction(() => /Paris is is/.test(document.body.innerText));")
    assert page.run('return page.getAttribute(".answer", "aria-busy")') == "true"
    assert page.run('return page.locator(".turn.ended").count()') == 0
    page.run('await page.keyboard.press("Escape"); await page.waitForSelector(".turn.ended");')
    assert "Stopped" in page.run('return page.innerText(".notice")')
    assert "Paris is is" in page.run('return page.innerText(".answer")')
    eventually(lambda: engine.chats[-1].gone_at is not None, within_s=5)


def test_stop_button_stops_and_asking_again_answers(page: Browser, engine: FakeEngine) -> None:
    engine.script = saying(["Paris"] * 400, every=0.05)
    ask(page, "What is the capital of France?", wait=False)
    page.run('await page.waitForSelector(".answer p"); await page.click("text=Stop");')
    page.run('await page.waitForSelector(".turn.ended");')
    engine.script = saying(["Paris."])
    page.run('await page.click("text=Ask again");')
    page.run('await page.waitForSelector(".turn:nth-child(2).ended .badges");')
    assert page.run('return page.innerText(".turn:last-child .answer")').startswith("Paris.")


def test_follow_up_carries_the_conversation(page: Browser, engine: FakeEngine) -> None:
    engine.script = saying(FRANCE)
    ask(page, "What is the capital of France?")
    ask(page, "What does the capital of Peru have in common with it?")
    messages = json.dumps(engine.chats[-1].json()["messages"])
    assert "What is the capital of France?" in messages
    assert "It lies on the Seine." in messages
    assert page.run('return page.locator(".turn").count()') == 2
    page.run('await page.click("text=New conversation");')
    assert page.run('return page.locator(".turn").count()') == 0


def test_citation_highlights_its_span_in_the_passage(page: Browser, engine: FakeEngine) -> None:
    """The events are written here: which sentences are cited is another room's to tell."""
    text = "# France\n\nParis \U0001f5fc is the capital of France. It lies on the Seine."
    start = text.index("It lies")
    source = {"n": 1, "doc_id": "f", "passage_id": "f#0", "title": "France", "text": text}
    span = {
        "n": 1,
        "doc_id": "f",
        "passage_id": "f#0",
        "start": 100 + start,
        "end": 100 + len(text),
    }
    answer = "Caf\u00e9 \U0001f5fc first. It *lies* on the Seine [1]. Nobody knows."
    sentence = answer.index("It")
    end = answer.index("]") + 2
    done = {
        "finish_reason": "stop", "usage": {"prompt_tokens": 1, "completion_tokens": 1},
        "cost_eur": 0, "latency_ms": {"total": 5}, "degraded": [], "request_id": "r",
        "engine": "e", "model": "m", "cache": {"kind": "none", "age_s": None},
    }  # fmt: skip
    cited = {"start": sentence, "end": end, "kind": "cited", "score": 0.9, "sources": [span]}
    loose = {"start": end + 1, "end": len(answer), "kind": "unsupported", "score": 0, "sources": []}
    events = [
        ("sources", {"sources": [{**source, "start": 100, "end": 100 + len(text)}]}),
        ("token", {"token": answer}),
        ("citation", cited),
        ("citation", loose),
        ("done", done),
    ]
    body = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
    page.run(
        f"""await page.route("**/query/stream", (route) => route.fulfill({{
            contentType: "text/event-stream", body: {json.dumps(body)} }}));"""
    )
    ask(page, "Where does it lie?")
    assert page.run('return page.innerText("mark")') == "It lies on the Seine."
    assert page.run("return page.locator('[data-sentence=\"0\"]').allInnerTexts()") == [
        "It ",
        "lies",
        " on the Seine 1.",
    ]
    assert "Nobody knows." in page.run('return page.innerText(".sentence.unsupported")')
    page.run("await page.hover('[data-sentence=\"0\"]');")
    assert page.run('return page.locator("mark.on").count()') == 1
    page.run('await page.hover(".question");')
    assert page.run('return page.locator("mark.on").count()') == 0
    page.run('await page.focus(".ref"); await page.keyboard.press("Enter");')
    assert page.run('return page.getAttribute(".source .title", "aria-expanded")') == "true"
    assert page.run("return page.evaluate(() => document.activeElement.className)") == "title"


def test_broken_stream_keeps_what_came(page: Browser, engine: FakeEngine) -> None:
    engine.script = sending(delta("Paris is"))
    ask(page, "What is the capital of France?")
    assert page.run('return page.innerText(".answer")') == "Paris is"
    assert "not the whole answer" in page.run('return page.innerText(".notice")')
    assert page.run('return page.getByText("Earlier answers").isVisible()') is False


def test_answer_that_was_cut_short_says_so(page: Browser, engine: FakeEngine) -> None:
    engine.script = saying(["Paris is"], finish_reason="length")
    ask(page, "What is the capital of France?")
    assert "cut off at its longest" in page.run('return page.innerText(".badges")')


def test_feedback_is_told_to_the_server(page: Browser, client: Client, engine: FakeEngine) -> None:
    ask(page, "What is the capital of France?")
    page.run(
        """
        const asked = page.waitForRequest("**/feedback");
        await page.click("text=Not helpful");
        const body = (await asked).postDataJSON();
        await page.waitForSelector('[data-rating="down"][aria-pressed="true"]');
        if (body.rating !== "down" || !body.request_id) throw new Error(JSON.stringify(body));
        """
    )
    assert "Thank you" in page.run('return page.innerText(".actions")')


def test_earlier_answers_come_back_and_are_cleared(page: Browser, engine: FakeEngine) -> None:
    engine.script = saying(FRANCE)
    ask(page, "What is the capital of France?")
    page.run('await page.reload(); await page.click("text=Earlier answers");')
    page.run('await page.click("dialog .line"); await page.waitForSelector(".turn.ended");')
    assert "It lies on the Seine." in page.run('return page.innerText(".answer")')
    page.run('await page.click("text=Earlier answers"); await page.click("text=Clear all");')
    page.run('await page.waitForSelector("text=Earlier answers", {state: "hidden"});')
    assert page.run('return page.evaluate(() => localStorage.getItem("ragrelay.history"))') is None


def test_history_is_bounded(page: Browser) -> None:
    page.run(
        """
        await page.evaluate(async () => {
          const { keep } = await import("/page/history.js");
          const sources = [{ n: 1, text: "\U0001f5fc".repeat(5000) }];
          for (let n = 0; n < 40; n++) {
            keep({ question: `q${n}`, answer: "a", sources, citations: [], done: {} });
          }
        });
        """
    )
    kept = page.run(
        'return page.evaluate(() => JSON.parse(localStorage.getItem("ragrelay.history")))'
    )
    assert [one["question"] for one in kept] == [f"q{n}" for n in range(39, 9, -1)]
    assert len(kept[0]["sources"][0]["text"]) == 2000


def test_examples_come_from_the_documents_and_ask(page: Browser, engine: FakeEngine) -> None:
    page.run('await page.waitForSelector(".examples button");')
    assert page.run('return page.locator(".examples button").allInnerTexts()') == [
        "What is \u201cFrance\u201d about?",
        "What is \u201cPeru\u201d about?",
        "What is \u201ctea\u201d about?",
    ]
    page.run('await page.click(".examples button >> nth=0"); await page.waitForSelector(".ended");')
    assert page.run('return page.innerText(".question")') == "What is \u201cFrance\u201d about?"


def test_keys_reach_the_box_and_make_lines(page: Browser) -> None:
    page.run('await page.keyboard.press("/");')
    assert page.run("return page.evaluate(() => document.activeElement.id)") == "question"
    page.run('await page.keyboard.type("a/b"); await page.keyboard.press("Shift+Enter");')
    page.run('await page.keyboard.type("c");')
    assert page.run('return page.inputValue("#question")') == "a/b\nc"


def test_answer_under_way_moves_nothing(page: Browser, engine: FakeEngine) -> None:
    """The browser's own measure of what moved by itself; 0.1 is what is called good."""
    engine.script = saying(["word "] * 150, every=0.005)
    page.run(
        """await page.evaluate(() => { window.moved = 0;
          new PerformanceObserver((list) => { for (const entry of list.getEntries()) {
            if (!entry.hadRecentInput) window.moved += entry.value; } })
            .observe({ type: "layout-shift" }); });"""
    )
    ask(page, "What is the capital of France?")
    assert page.run("return page.evaluate(() => window.moved)") < 0.02
