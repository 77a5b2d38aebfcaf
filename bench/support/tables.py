"""Rows of figures as a table in Markdown."""

Row = dict[str, object]
"""what is measured, ours, what stands beside it (bare), their ratio, the goal."""


def print_rows(rows: list[Row]) -> None:
    print("| | ours | beside it | ratio | goal |\n|---|---|---|---|---|")
    for row in rows:
        cells = (str(row[key]) for key in ("what", "ours", "bare", "ratio", "goal"))
        print(f"| {' | '.join(cells)} |")
