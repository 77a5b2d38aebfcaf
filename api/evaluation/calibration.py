"""Choose the similarity threshold of the answer cache for an embedding model, from labelled pairs.

The lowest one that keeps to a target of false hits. Labels are noisy: the target bounds what the
labels call false, not what users would.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from api.evaluation.cache import Encode, Judged, Rate, judge_pairs, read_pairs

TARGET = 0.025
GRID = tuple(round(0.70 + step / 200, 3) for step in range(60))


class Point(msgspec.Struct, frozen=True):
    threshold: float
    recall: Rate
    false_hits: Rate


class Calibration(msgspec.Struct, frozen=True):
    target: float
    threshold: float | None
    """None: even the highest does not keep to the target."""
    points: list[Point]

    def to_table(self) -> str:
        lines = ["| threshold | recall | false hits | |", "|---|---|---|---|"]
        for point in self.points:
            mark = "← chosen" if point.threshold == self.threshold else ""
            cells = (f"{point.threshold:.3f}", point.recall, point.false_hits, mark)
            lines.append("| " + " | ".join(map(str, cells)) + " |")
        chosen = "none" if self.threshold is None else f"{self.threshold:.3f}"
        head = f"threshold {chosen} for at most {self.target:.3f} false hits (upper 95 % bound)"
        return "\n".join([head, "", *lines])


def calibrate_files(
    paths: Iterable[Path], encode: Encode, *, target: float = TARGET
) -> Calibration:
    """On files of labelled pairs. Raises Unreadable, ValueError without a trap among them."""
    return calibrate(
        [case for path in paths for case in judge_pairs(read_pairs(path), encode)], target=target
    )


def calibrate(judged: Iterable[Judged], *, target: float = TARGET) -> Calibration:
    """The smallest threshold whose upper bound of the false-hit rate keeps to the target."""
    cases = list(judged)
    if not any(case.is_trap for case in cases):
        raise ValueError("no pair is labelled 0: nothing tells a false hit")
    points = [_point(cases, threshold) for threshold in GRID]
    kept = (point.threshold for point in points if point.false_hits.high <= target)
    return Calibration(target, next(kept, None), points)


def _point(cases: list[Judged], threshold: float) -> Point:
    right = [case.score >= threshold for case in cases if not case.is_trap]
    wrong = [case.score >= threshold for case in cases if case.is_trap]
    return Point(threshold, Rate(sum(right), len(right)), Rate(sum(wrong), len(wrong)))
