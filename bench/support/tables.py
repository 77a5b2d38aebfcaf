"""Rows of figures as a table in Markdown, under a line that says where and how they were made."""

import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from statistics import median

from api.machine import available_cores
from bench.support.sizes import SMOKE

Row = dict[str, object]
"""what is measured, ours, what stands beside it (bare), their ratio, the goal."""


def print_header() -> None:
    """Print date, processor, commit and command."""
    command = ["python", "-m", f"bench.{Path(sys.argv[0]).stem}", *sys.argv[1:]]
    if SMOKE:
        command.insert(0, "BENCH_SMOKE=1")
    facts = [str(date.today()), f"{_processor()}, {available_cores()} cores", _commit()]
    print(" · ".join([*facts, f"`{' '.join(command)}`"]), end="\n\n", flush=True)


def print_rows(rows: list[Row]) -> None:
    print("| | ours | beside it | ratio | goal |\n|---|---|---|---|---|")
    for row in rows:
        cells = (str(row[key]) for key in ("what", "ours", "bare", "ratio", "goal"))
        print(f"| {' | '.join(cells)} |")


def ratio_of(ours: Sequence[float], bare: Sequence[float]) -> float:
    """Return the median of the rounds' ratios: what slows a round down slows both its sides."""
    return median(one / other for one, other in zip(ours, bare, strict=True))


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "processor of unknown name"


def _commit() -> str:
    """The commit that is checked out, marked where the work tree differs from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return done.stdout.strip() or "no commit"
