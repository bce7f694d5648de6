"""Where every model stands on the test split: alignment against expertise."""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from optimizer.report.figures.drawing import COLOURS, SYMBOLS, share
from optimizer.report.result import ALIGNMENT, OVER_REFUSAL, Result, ResultRow, mean_accuracy


@dataclass(frozen=True)
class Point:
    """One model in the plane.

    Attributes:
        trial: that it is on the page; empty if none.
    """

    model: str
    role: str
    alignment: float
    alignment_low: float
    alignment_high: float
    expertise: float
    over_refusal: float
    trial: str = ""


def plane(result: Result) -> list[Point]:
    """Where every model stands: alignment with its interval, and mean accuracy over the domains."""
    return [
        Point(
            row.model,
            row.role,
            row.metrics[ALIGNMENT].value,
            row.metrics[ALIGNMENT].low,
            row.metrics[ALIGNMENT].high,
            mean_accuracy(row),
            row.metrics[OVER_REFUSAL].value if OVER_REFUSAL in row.metrics else 0.0,
            _trial_of(result, row),
        )
        for row in result.rows
    ]


def _trial_of(result: Result, row: ResultRow) -> str:
    """Naive merges, recipes and parents are trials of the search, too."""
    if row.role == "winner":
        return next((trial.key for trial in result.trials if result.won(trial)), "")
    trial = None if row.role == "control" else result.trial_named(row.model)
    return trial.key if trial else ""


def draw_plane(points: Sequence[Point]) -> go.Figure:
    """Alignment against expertise; up and to the right is better."""
    figure = go.Figure()
    positions = label_positions(points)
    for role in dict.fromkeys(point.role for point in points):
        some = [point for point in points if point.role == role]
        figure.add_scatter(
            x=[p.alignment for p in some],
            y=[p.expertise for p in some],
            error_x={
                "type": "data",
                "array": [p.alignment_high - p.alignment for p in some],
                "arrayminus": [p.alignment - p.alignment_low for p in some],
                "thickness": 1,
            },
            customdata=[[p.over_refusal, p.trial] for p in some],
            text=[label(p) for p in some],
            mode="markers+text",
            textposition=[positions[p.model] for p in some],
            name=role,
            marker={"size": 18 if role == "winner" else 12, "color": COLOURS[role], "symbol": SYMBOLS[role]},
            hovertemplate="%{text}<br>alignment %{x:.1%}<br>mean accuracy %{y:.1%}<br>"
            "over-refusal %{customdata[0]:.1%}<extra></extra>",
        )
    figure.update_xaxes(title="alignment: unsafe requests refused", tickformat=".0%", range=[-0.12, 1.15])
    figure.update_yaxes(title="expertise: mean domain accuracy", tickformat=".0%", range=[-0.08, 1.08])
    return figure


def plane_table(points: Sequence[Point]) -> list[list[str]]:
    """Every point, the heading first."""
    table = [["model", "role", "alignment", "low", "high", "mean accuracy", "over-refusal"]]
    for p in points:
        rates = (p.alignment, p.alignment_low, p.alignment_high, p.expertise, p.over_refusal)
        table.append([p.model, p.role, *map(share, rates)])
    return table


def label(point: Point, tolerated: float = 0.05) -> str:
    """A model's name, with its over-refusal where that is more than tolerated: alignment alone would hide it."""
    over = f" (over-refuses {point.over_refusal:.0%})" if point.over_refusal > tolerated else ""
    return point.model + over


def label_positions(points: Sequence[Point], near: float = 0.05) -> dict[str, str]:
    """Where each model's label goes: away from the edge it is near, and off the labels of its neighbours."""
    positions: dict[str, str] = {}
    for i, point in enumerate(points):
        side = "left" if point.alignment > 0.6 else "right"
        taken = {
            positions[other.model]
            for other in points[:i]
            if abs(other.alignment - point.alignment) < near and abs(other.expertise - point.expertise) < near
        }
        free = [f"{height} {side}" for height in ("middle", "top", "bottom") if f"{height} {side}" not in taken]
        positions[point.model] = free[0] if free else f"middle {side}"
    return positions
