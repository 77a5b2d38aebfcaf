import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.cache.thresholds import threshold_for
from api.evaluation.cache import EXACT, NEVER, Judged, Rate, evaluate_pairs, judge_file
from api.evaluation.calibration import calibrate
from retrieval.models.embedder import Embedder
from retrieval.models.resolve import MINILM
from retrieval.reading.bounded import Unreadable
from retrieval.types import Float32Array


def written(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def letters(texts) -> Float32Array:
    """Unit vectors by which letters a text has."""
    counts = np.array([[text.lower().count(letter) for letter in "abcdefghij"] for text in texts])
    counts = counts + 0.01
    return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (0, 10, 0.0, 0.30850),
        (10, 10, 0.69150, 1.0),
        (8, 100, 0.03517, 0.15156),
        (1, 2, 0.01258, 0.98742),
    ],
)
def test_rate_interval_is_clopper_and_pearsons(k: int, n: int, low: float, high: float) -> None:
    assert (Rate(k, n).low, Rate(k, n).high) == pytest.approx((low, high), abs=1e-5)


@settings(deadline=None)  # the first interval imports scipy
@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_rate_interval_holds_the_rate(rate: tuple[int, int]) -> None:
    figure = Rate(*rate)
    assert 0.0 <= figure.low <= figure.value <= figure.high <= 1.0


def test_rate_of_no_cases_is_a_dash_and_may_be_anything() -> None:
    assert str(Rate(0, 0)) == "–"
    assert (Rate(0, 0).low, Rate(0, 0).high) == (0.0, 1.0)


def test_pairs_are_judged_by_the_products_rules(tmp_path: Path) -> None:
    rows = [
        {"a": "A bad cab?", "b": "a BAD  cab", "label": 1, "category": "repeat"},
        {"a": "A bad cab?", "b": "A bad bad cab", "label": 1, "category": "other"},
        {"a": "A bad cab?", "b": "Not a bad cab?", "label": 0, "category": "negation"},
        {"a": "Is it bad today?", "b": "Is it bad today?", "label": 0, "category": "fresh"},
    ]
    cases = judge_file(written(tmp_path / "x.jsonl", rows), letters)
    scores = [case.score for case in cases.judged]
    assert scores[0] == EXACT
    assert 0.9 < scores[1] < 1.0
    assert scores[2:] == [NEVER, NEVER]
    assert [case.is_trap for case in cases.judged] == [False, False, True, True]
    report = evaluate_pairs([tmp_path / "x.jsonl"], letters, (0.5, 0.999)).to_table()
    assert "| x | n | 0.50 | 1.00 |" in report
    assert "| **recall (should hit)** | 2 | 1.000 [0.158, 1.000] | 0.500 [0.013, 0.987] |" in report
    assert "| negation | 1 | 0.000 [0.000, 0.975] |" in report


def test_positives_alone_are_looked_up_among_all(tmp_path: Path) -> None:
    rows = [
        {"a": "a bad cab", "b": "a bad bad cab", "label": 1},
        {"a": "high jig", "b": "a cab bad", "label": 1},
    ]
    cases = judge_file(written(tmp_path / "x.jsonl", rows), letters)
    right, wrong = (cases.served(0.9, traps=traps) for traps in (False, True))
    assert (right.k, right.n, wrong.k, wrong.n) == (1, 2, 1, 2)


def test_conversations_hit_after_the_same_history_alone(tmp_path: Path) -> None:
    def turns(first: str, last: str) -> list[dict]:
        return [{"role": "user", "content": first}, {"role": "user", "content": last}]

    rows = [
        {"a": turns("hi", "Cancel it"), "b": turns("hi", "cancel it."), "label": 1},
        {"a": turns("hi", "cancel it"), "b": turns("ho", "cancel it"), "label": 0},
    ]
    cases = judge_file(written(tmp_path / "x.jsonl", rows), letters)
    assert [case.score for case in cases.judged] == [EXACT, NEVER]


@pytest.mark.parametrize("text", ["", "{}", "nonsense", '{"a": "x", "b": "y", "label": 2}'])
def test_file_of_no_pairs_says_so(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(Unreadable):
        judge_file(tmp_path / "x.jsonl", letters)


def test_calibrate_takes_the_smallest_that_keeps_to_the_target() -> None:
    scores = np.linspace(0.5, 1.0, 2001)
    judged = [Judged("all", True, float(score) - 0.05) for score in scores]
    judged += [Judged("all", False, float(score)) for score in scores]
    chosen = calibrate(judged, target=0.05)
    points = {point.threshold: point for point in chosen.points}
    assert points[chosen.threshold].false_hits.high <= 0.05
    assert points[round(chosen.threshold - 0.005, 3)].false_hits.high > 0.05
    assert "← chosen" in chosen.to_table()


def test_calibrate_without_hope_or_traps() -> None:
    assert calibrate([Judged("all", True, EXACT)]).threshold is None
    with pytest.raises(ValueError, match="labelled 0"):
        calibrate([Judged("all", False, EXACT)])


def test_threshold_is_the_setting_else_the_models() -> None:
    assert threshold_for(MINILM, None) == 0.92
    assert threshold_for(MINILM, 0.8) == 0.8
    assert threshold_for("some/model", None) is None


def test_fow_pairs_keep_to_the_bounds(minilm: Embedder, pair_files: Path) -> None:
    """The seed's rule without vetoes: recall 0.473, false hits 0.22 at 0.92."""
    cases = judge_file(pair_files / "fow_pairs_dev.jsonl.gz", minilm.encode_queries)
    assert cases.served(0.92, traps=False).value >= 0.42
    assert cases.served(0.92, traps=True).value <= 0.01
    assert cases.served(0.90, traps=False).value >= 0.45
    assert cases.served(0.90, traps=True).value <= 0.02


def test_fow_conversations_never_hit_a_trap(minilm: Embedder, pair_files: Path) -> None:
    cases = judge_file(pair_files / "fow_conversations_dev.jsonl.gz", minilm.encode_queries)
    assert cases.served(0.5, traps=True).k == 0


def test_qqp_sample_keeps_to_the_bounds(minilm: Embedder, pair_files: Path, tmp_path: Path) -> None:
    with gzip.open(pair_files / "qqp_dev.jsonl.gz", "rb") as rows:
        sample = [row for number, row in enumerate(rows) if number % 150 == 0]
    (tmp_path / "qqp.jsonl").write_bytes(b"".join(sample))
    cases = judge_file(tmp_path / "qqp.jsonl", minilm.encode_queries)
    assert cases.served(0.92, traps=False).high >= 0.28
    assert cases.served(0.92, traps=True).low <= 0.025
