"""Equal questions at the same time: one call of the engine, whoever leaves."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from tests.support.engine import FakeEngine, saying
from tests.support.harness import QUESTION, Client, Stream, frames, text_of
from tests.support.waiting import eventually


def test_equal_questions_at_once_ask_the_engine_once(cached: Client, engine: FakeEngine) -> None:
    engine.script = saying(["a", "b", "c", "d"], every=0.3, first_after=0.3)
    asked = [
        "What is the capital of France?",
        "What's the capital city of France?",
        "What is the capital of Peru?",
    ] * 10
    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(lambda q: cached.post("/query", {"query": q}).json(), asked))
    assert len(engine.chats) == 2
    assert {answer["answer"] for answer in answers} == {"abcd"}
    kinds = [answer["cache"]["kind"] for answer in answers]
    assert kinds.count("none") == 2
    assert kinds.count("coalesced") >= 20
    for query, answer in zip(asked, answers, strict=True):
        assert ("peru.md" == answer["sources"][0]["doc_id"]) is ("Peru" in query)
    assert len({answer["request_id"] for answer in answers}) == 30


def test_leader_leaving_hands_the_answer_over(cached: Client, engine: FakeEngine) -> None:
    engine.script = saying([f"{n} " for n in range(12)], every=0.15)
    with Stream(cached) as leader:
        leader.read().readline()
        found: list = []
        follower = threading.Thread(
            target=lambda: found.append(frames(cached.post("/query/stream", QUESTION).body))
        )
        follower.start()
        time.sleep(0.3)
    follower.join(20)
    assert text_of(found[0]) == "".join(f"{n} " for n in range(12))
    assert found[0][-1].data["cache"]["kind"] == "coalesced"
    assert len(engine.chats) == 1


def test_everyone_leaving_closes_the_engine_within_a_second(
    cached: Client, engine: FakeEngine
) -> None:
    engine.script = saying(["a"] * 200, every=0.05)
    with Stream(cached) as one, Stream(cached) as two:
        one.read().readline()
        two.read().readline()
    left = time.monotonic()
    eventually(lambda: engine.chats[0].gone_at is not None, within_s=3)
    assert engine.chats[0].gone_at - left < 1
    eventually(lambda: cached.metric("rag_open_streams") == 0)
