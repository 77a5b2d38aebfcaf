"""What the log says of a window, against counts made by hand."""

from typing import Any

import msgspec
import pytest

from api.log import analytics
from api.log import reader as reading
from api.log import rows as noting
from api.log.analytics import Latency, Window
from api.log.database import Database
from api.log.reader import Wanted
from tests.log.rows import ACME, NOW, answered, write

DAY = Window(since=NOW - 86400)


def rows() -> list[Any]:
    return [
        # engine answers of 100, 200, … 1000 ms
        *[answered(f"e{n}", ms=100.0 * (n + 1), ago_s=100 - n) for n in range(10)],
        answered("h0", cache="exact", ms=2.0, cost_eur=0.0, prompt_tokens=0, completion_tokens=0),
        answered("h1", experiment="shorter", cache="semantic", ms=10.0, cost_eur=0.0, caller=ACME),
        answered("u0", engine="", model="", passage_ids=[], ms=5.0, cost_eur=0.0, question="why?"),
        answered("u1", engine="", model="", passage_ids=[], ms=5.0, cost_eur=0.0, question="why?"),
        answered("f0", outcome="engine_error", error="engine_down", ms=50.0, question="who?"),
        answered("g0", outcome="client_gone", ms=50.0, engine="vllm"),
        answered("old", ago_s=90_000, experiment="older"),
        noting.judged(ACME, "e0", "up", keeps_text=False),
        noting.judged(ACME, "e1", "down", keeps_text=False),
    ]


def ask(on_database: Any, work: Any, *args: Any, **fields: Any) -> Any:
    async def asked(database: Database) -> Any:
        await write(database, *rows())
        return await database.run(lambda connection: work(connection, *args, **fields))

    return on_database(asked)


def test_summary_counts_the_window(migrated: str, on_database: Any) -> None:
    found = ask(on_database, analytics.summary, DAY)
    assert found.answers == 16
    assert found.outcomes == {"ok": 14, "client_gone": 1, "engine_error": 1}
    assert found.errors == {"engine_down": 1}
    assert found.caches == {"none": 12, "exact": 1, "semantic": 1}
    assert found.unanswered == 2
    assert found.cost_eur == pytest.approx(0.012)
    assert found.prompt_tokens == 1500
    # of 2 5 5 10 100 200 300 400 500 600 700 800 900 1000
    assert found.latency_ms == Latency(p50=300.0, p95=1000.0)
    assert found.feedback == {"up": 1, "down": 1}
    assert found.experiments == ["shorter"]


def test_percentiles_are_those_of_the_sorted_times(migrated: str, on_database: Any) -> None:
    times = [round(0.05 * 1.03**n, 2) for n in range(500)]  # from 0.05 ms to 127 s

    async def asked(database: Database) -> Any:
        await write(database, *[answered(f"r{n}", ms=ms) for n, ms in enumerate(times)])
        return await database.run(lambda connection: analytics.summary(connection, DAY))

    latency = on_database(asked).latency_ms
    assert latency.p50 == pytest.approx(times[249], rel=0.005)
    assert latency.p95 == pytest.approx(times[474], rel=0.005)


def test_summary_of_a_tenant_is_its_own(migrated: str, on_database: Any) -> None:
    found = ask(on_database, analytics.summary, msgspec.structs.replace(DAY, tenant="acme"))
    assert (found.answers, found.caches) == (1, {"semantic": 1})
    assert found.feedback == {"up": 1, "down": 1}


def test_summary_of_nothing_is_empty(migrated: str, on_database: Any) -> None:
    found = ask(on_database, analytics.summary, msgspec.structs.replace(DAY, tenant="nobody"))
    assert (found.answers, found.outcomes, found.cost_eur) == (0, {}, 0)
    assert found.latency_ms == Latency(p50=None, p95=None)


def test_savings_are_the_mean_engine_answer_less_the_hit(migrated: str, on_database: Any) -> None:
    found = ask(on_database, analytics.savings, DAY)
    assert found.engine_answers == 10
    assert found.mean_engine_eur == pytest.approx(0.001)
    assert found.mean_engine_seconds == pytest.approx(0.55)
    assert [(kind.kind, kind.answers) for kind in found.kinds] == [("exact", 1), ("semantic", 1)]
    assert found.eur == pytest.approx(0.002)
    assert found.seconds == pytest.approx(0.548 + 0.540)


def test_savings_without_engine_answers_are_none(migrated: str, on_database: Any) -> None:
    found = ask(on_database, analytics.savings, msgspec.structs.replace(DAY, tenant="acme"))
    assert (found.eur, found.seconds, found.engine_answers) == (0, 0, 0)
    assert found.kinds[0].answers == 1


def test_engines_are_told_apart_and_the_cache_is_none_of_them(
    migrated: str, on_database: Any
) -> None:
    tgi, vllm = ask(on_database, analytics.engines, DAY)
    assert (tgi.engine, tgi.model, tgi.answers, tgi.failed) == ("tgi", "m", 11, 1)
    assert tgi.latency_ms == Latency(p50=500.0, p95=1000.0)
    assert tgi.first_token_ms == Latency(p50=250.0, p95=500.0)
    assert (vllm.answers, vllm.failed, vllm.latency_ms) == (1, 0, Latency())


def test_answers_come_newest_first_in_pages(migrated: str, on_database: Any) -> None:
    async def pages(connection: Any) -> list[list[str]]:
        found, before = [], None
        while True:
            page = await reading.newest(connection, DAY, Wanted(before_id=before), 6)
            found.append([answer.request_id for answer in page])
            if len(page) < 6:
                return found
            before = int(page[-1].id)

    found = ask(on_database, lambda connection: pages(connection))
    assert [len(page) for page in found] == [6, 6, 4]
    assert found[-1] == ["e3", "e2", "e1", "e0"]
    assert len({id for page in found for id in page}) == 16


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        (Wanted(outcome="engine_error"), {"f0"}),
        (Wanted(unanswered=True), {"u0", "u1"}),
        (Wanted(outcome="ok", unanswered=False), {f"e{n}" for n in range(10)} | {"h0", "h1"}),
    ],
)
def test_answers_are_filtered(
    migrated: str, on_database: Any, wanted: Wanted, ids: set[str]
) -> None:
    found = ask(on_database, reading.newest, DAY, wanted, 50)
    assert {answer.request_id for answer in found} == ids


def test_failing_questions_most_often_first(migrated: str, on_database: Any) -> None:
    found = ask(on_database, reading.failing, DAY, limit=5, offset=0)
    assert [(q.question, q.asked, q.unanswered) for q in found] == [("why?", 2, 2), ("who?", 1, 0)]
    (second,) = ask(on_database, reading.failing, DAY, limit=5, offset=1)
    assert second.question == "who?"
