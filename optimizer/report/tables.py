"""Comparisons as text: how rates, differences and names stand in tables."""

from collections.abc import Collection, Sequence

from rich import box
from rich.table import Table

from optimizer.report.result import Difference, Estimate, Result, mean_accuracy


def text_table(title: str, rows: Sequence[Sequence[str]], bold: Collection[int] = ()) -> Table:
    """Rows of text for the terminal.

    Args:
        rows: the heading first; its first column has names.
        bold: numbers of rows, counted without the heading.
    """
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    headings, *body = rows
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left")
    for i, cells in enumerate(body):
        table.add_row(*cells, style="bold" if i in bold else "")
    return table


def heading(metric: str) -> str:
    """A metric's name at the head of its column."""
    return metric.removeprefix("accuracy/").replace("_", "-")


def per_cent(rate: Estimate) -> str:
    """A rate with its interval."""
    return f"{100 * rate.value:.1f} [{100 * rate.low:.0f},{100 * rate.high:.0f}]"


def points(difference: Difference) -> str:
    """A difference in percentage points with its interval."""
    value, low, high = (100 * end for end in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def score_table(result: Result) -> list[list[str]]:
    """The comparison as text, its heading first: per cent with 95 % intervals."""
    table = [["model", *map(heading, result.rows[0].metrics), "mean"]]
    table += [
        [row.model, *map(per_cent, row.metrics.values()), f"{100 * mean_accuracy(row):.1f}"] for row in result.rows
    ]
    return table
