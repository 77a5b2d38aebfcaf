"""What the log says of an experiment, against counts made by hand."""

from typing import Any

import msgspec
import pytest

from api.log import experiment_report as experiments
from api.log import rows as noting
from api.log.analytics import Latency, Window
from api.log.database import Database
from api.log.experiment_report import NO_DIFFERENCE, Interval, wilson
from tests.log.rows import ACME, NOW, answered, write

DAY = Window(since=NOW - 86400)


def of(variant: str, request_id: str, **fields: Any) -> Any:
    given = {"caller": ACME, **fields}
    return answered(request_id, experiment="shorter", variant=variant, **given)


def voted(request_id: str, rating: str) -> Any:
    return noting.judged(ACME, request_id, rating, keeps_text=False)


def report(on_database: Any, rows: list[Any], window: Window = DAY, name: str = "shorter") -> Any:
    async def asked(database: Database) -> Any:
        await write(database, *rows)
        return await database.run(lambda it: experiments.report(it, window, name))

    return on_database(asked)


def test_report_counts_each_variant(migrated: str, on_database: Any) -> None:
    rows = [
        *[of("a", f"a{n}", ms=100.0 * (n + 1), cost_eur=0.001 * (n + 1)) for n in range(4)],
        of("a", "a4", outcome="engine_error", error="engine_down", ms=9000.0, cost_eur=0.0),
        of("a", "a5", outcome="client_gone", ms=9000.0, cost_eur=0.5),
        of("b", "b0", ms=50.0, cost_eur=0.002),
        of("b", "old", ago_s=90_000),
        of("b", "b1", outcome="timeout", error="deadline"),
        answered("none", caller=ACME),
        answered("c0", experiment="another", variant="a"),
        voted("a0", "up"), voted("a1", "down"), voted("b0", "up"), voted("none", "down"),
        voted("old", "down"), voted("never", "down"),
    ]  # fmt: skip
    found = report(on_database, rows)
    a, b = found.variants
    assert (found.experiment, a.variant, b.variant) == ("shorter", "a", "b")
    assert (a.answers, a.failed, b.answers, b.failed) == (6, 1, 2, 1)
    assert a.latency_ms == Latency(p50=200.0, p95=400.0)
    assert b.latency_ms == Latency(p50=50.0, p95=50.0)
    assert (a.mean_cost_eur, b.mean_cost_eur) == (0.0025, 0.002)
    assert (a.up, a.down, a.down_rate, b.up, b.down, b.down_rate) == (1, 1, 0.5, 1, 0, 0.0)
    assert found.verdict == NO_DIFFERENCE
    assert found.figures == (
        "a: p50 200 ms, p95 400 ms, 0.002500 EUR an answer; "
        "b: p50 50 ms, p95 50 ms, 0.002000 EUR an answer"
    )


def test_request_id_used_twice_counts_its_judgement_once(migrated: str, on_database: Any) -> None:
    found = report(on_database, [of("a", "twice"), of("a", "twice"), voted("twice", "down")])
    assert (found.variants[0].answers, found.variants[0].down) == (2, 1)


def test_judgement_of_another_tenant_is_not_counted(migrated: str, on_database: Any) -> None:
    other = msgspec.structs.replace(ACME, tenant="other")
    rows = [of("a", "r"), of("b", "r", caller=other), voted("r", "down")]
    a, b = report(on_database, rows).variants
    assert (a.down, b.down, b.down_rate, b.down_rate_95) == (1, 0, None, None)
    window = msgspec.structs.replace(DAY, tenant="other")
    (only,) = report(on_database, [], window).variants
    assert only.variant == "b"


def test_verdict_names_the_better_when_the_intervals_part(migrated: str, on_database: Any) -> None:
    rows = []
    for n in range(60):
        rows += [of("a", f"a{n}"), voted(f"a{n}", "down" if n < 36 else "up")]
        rows += [of("b", f"b{n}"), voted(f"b{n}", "down" if n < 12 else "up")]
    assert report(on_database, rows).verdict == (
        "b is better than a: 20.0% against 60.0% of its feedback is down"
    )


def test_intervals_that_overlap_show_no_difference(migrated: str, on_database: Any) -> None:
    rows = []
    for n in range(10):
        rows += [of("a", f"a{n}"), voted(f"a{n}", "down" if n < 6 else "up")]
        rows += [of("b", f"b{n}"), voted(f"b{n}", "down" if n < 2 else "up")]
    assert report(on_database, rows).verdict == NO_DIFFERENCE


def test_report_without_answers_that_are_ok_says_so(migrated: str, on_database: Any) -> None:
    found = report(on_database, [of("a", "a0", outcome="timeout")])
    assert found.variants[0].latency_ms == Latency()
    assert found.variants[0].mean_cost_eur is None
    assert found.figures == "a: no answer is ok"


def test_report_of_nothing_is_empty(migrated: str, on_database: Any) -> None:
    found = report(on_database, [])
    assert (found.variants, found.verdict, found.figures) == ([], NO_DIFFERENCE, "")


@pytest.mark.parametrize(
    ("k", "n", "interval"),
    [
        (0, 10, Interval(0.0, 0.2775)),
        (10, 10, Interval(0.7225, 1.0)),
        (5, 10, Interval(0.2366, 0.7634)),
        (1, 29, Interval(0.0061, 0.1718)),
    ],
)
def test_wilson_is_the_published_interval(k: int, n: int, interval: Interval) -> None:
    """1 of 29: Newcombe 1998, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857"""
    assert wilson(k, n) == interval
