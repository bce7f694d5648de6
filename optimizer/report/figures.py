"""The report's figures: for each a function that shapes the data, tested, and a thin one that draws it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from optimizer.report.result import Result, ResultRow, mean_accuracy

#: Okabe and Ito's palette, told apart with any colour vision.
COLOURS = {
    "winner": "#009E73",
    "control": "#D55E00",
    "naive": "#E69F00",
    "base": "#888888",
    "aligned": "#0072B2",
    "expert": "#56B4E9",
}
SYMBOLS = {
    "winner": "star",
    "control": "x",
    "naive": "diamond",
    "base": "square",
    "aligned": "triangle-up",
    "expert": "circle",
}


@dataclass(frozen=True)
class Point:
    """One model in the plane of alignment and expertise."""

    model: str
    role: str
    alignment: float
    alignment_low: float
    alignment_high: float
    expertise: float
    over_refusal: float


def plane(rows: Sequence[ResultRow]) -> list[Point]:
    """Where every model stands: alignment with its interval, and mean accuracy over the domains."""
    return [
        Point(
            row.model,
            row.role,
            row.metrics["alignment"].value,
            row.metrics["alignment"].low,
            row.metrics["alignment"].high,
            mean_accuracy(row),
            row.metrics["over_refusal"].value if "over_refusal" in row.metrics else 0.0,
        )
        for row in rows
    ]


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
            customdata=[p.over_refusal for p in some],
            text=[label(p) for p in some],
            mode="markers+text",
            textposition=[positions[p.model] for p in some],
            name=role,
            marker={"size": 18 if role == "winner" else 12, "color": COLOURS[role], "symbol": SYMBOLS[role]},
            hovertemplate="%{text}<br>alignment %{x:.1%}<br>mean accuracy %{y:.1%}<br>"
            "over-refusal %{customdata:.1%}<extra></extra>",
        )
    figure.update_xaxes(title="alignment: unsafe requests refused", tickformat=".0%", range=[-0.12, 1.15])
    figure.update_yaxes(title="expertise: mean domain accuracy", tickformat=".0%", range=[-0.08, 1.08])
    return figure


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


def heat(result: Result, most: int = 400) -> tuple[list[str], list[str], list[list[float]]]:
    """The winner's coefficients as (experts, groups, values); at most so many groups, the largest kept in order."""
    table = result.coefficients
    values = np.array(table.values)
    if len(table.groups) > most:
        kept = np.sort(np.argsort(-np.abs(values).max(0))[:most])
    else:
        kept = np.arange(len(table.groups))
    return table.experts, [table.groups[i] for i in kept], values[:, kept].tolist()


def draw_heat(experts: Sequence[str], groups: Sequence[str], values: Sequence[Sequence[float]]) -> go.Figure:
    """Coefficients by expert and group; white is 0, colours saturate at 3 so that a runaway does not hide the rest."""
    figure = go.Figure(
        go.Heatmap(
            x=[short(group) for group in groups],
            y=list(experts),
            z=values,
            zmin=-3,
            zmax=3,
            colorscale="RdBu",
            zmid=0,
            colorbar={"title": "λ"},
            customdata=[list(groups)] * len(experts),
            hovertemplate="%{y}<br>%{customdata}<br>λ = %{z:.3f}<extra></extra>",
        )
    )
    figure.update_xaxes(tickangle=60, tickfont={"size": 9})
    figure.update_yaxes(autorange="reversed")
    return figure


def short(group: str) -> str:
    """A tensor's name without what all of them share."""
    return group.removeprefix("model.").removesuffix(".weight").replace("layers.", "")


@dataclass(frozen=True)
class History:
    """One study's finished trials, in order."""

    study: str
    numbers: list[int]
    labels: list[str]
    losses: list[float]
    best: list[float]
    validation: list[float | None]
    pruned: list[bool]


def histories(result: Result) -> list[History]:
    """Every study's losses, and the best so far."""
    found = []
    for study in dict.fromkeys(trial.study for trial in result.trials):
        trials = [trial for trial in result.trials if trial.study == study]
        losses = [trial.loss for trial in trials]
        found.append(
            History(
                study,
                [trial.number for trial in trials],
                [trial.name or "descent" for trial in trials],
                losses,
                np.minimum.accumulate([np.inf if t.pruned else t.loss for t in trials]).tolist(),
                [trial.validation_loss for trial in trials],
                [trial.pruned for trial in trials],
            )
        )
    return found


def draw_history(history: History) -> go.Figure:
    """Search and validation loss by trial, logarithmic."""
    figure = go.Figure()
    figure.add_scatter(
        x=history.numbers,
        y=history.losses,
        text=history.labels,
        mode="markers",
        name="search",
        marker={
            "color": COLOURS["aligned"],
            "size": 9,
            "symbol": ["circle-open" if pruned else "circle" for pruned in history.pruned],
        },
        hovertemplate="trial %{x}: %{text}<br>loss %{y:.4f}<extra></extra>",
    )
    figure.add_scatter(
        x=history.numbers,
        y=history.validation,
        mode="markers",
        name="validation",
        marker={"color": COLOURS["naive"], "symbol": "diamond", "size": 8},
    )
    figure.add_scatter(
        x=history.numbers, y=history.best, mode="lines", name="best so far", line={"shape": "hv", "color": "#888888"}
    )
    figure.update_xaxes(title=f"trial of study {history.study}")
    figure.update_yaxes(title="weighted mean loss (nats per token)", type="log")
    return figure
