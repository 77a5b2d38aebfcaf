"""Count skipped tests by reason at the end of a run: each reason names what would run them."""

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        # (file, line, "Skipped: reason") of a skip; an expected failure has a text alone.
        what = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[what.removeprefix("Skipped: ")] += 1
    if reasons:
        terminalreporter.section("skipped, by reason")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count:4} {reason}")
