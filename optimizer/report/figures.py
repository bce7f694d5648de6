"""The report's figures: for each a function that shapes the data, tested, and a thin one that draws it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from optimizer.merging.groups import group_of
from optimizer.report.result import ALIGNMENT, MAIN, OVER_REFUSAL, CoefficientTable, Result, ResultRow, mean_accuracy

#: Okabe and Ito's palette, told apart with any colour vision.
COLOURS = {
    "winner": "#009E73",
    "control": "#D55E00",
    "recipe": "#CC79A7",
    "naive": "#E69F00",
    "base": "#888888",
    "aligned": "#0072B2",
    "expert": "#56B4E9",
}
SYMBOLS = {
    "winner": "star",
    "control": "x",
    "recipe": "pentagon",
    "naive": "diamond",
    "base": "square",
    "aligned": "triangle-up",
    "expert": "circle",
}

#: Labels that fit along an axis.
LABELS = 60


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
            row.metrics[ALIGNMENT].value,
            row.metrics[ALIGNMENT].low,
            row.metrics[ALIGNMENT].high,
            mean_accuracy(row),
            row.metrics[OVER_REFUSAL].value if OVER_REFUSAL in row.metrics else 0.0,
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


class Section(NamedTuple):
    """Neighbouring groups of one layer, or of what is outside the layers.

    Attributes:
        name: `layer 3`, `embeddings`, ...
        start: its first group's place.
        stop: the place after its last group.
    """

    name: str
    start: int
    stop: int


def sections(groups: Sequence[str]) -> list[Section]:
    """The layers that groups in depth order fall into."""
    found, start = [], 0
    for name, members in groupby(groups, _section):
        stop = start + len(list(members))
        found.append(Section(name, start, stop))
        start = stop
    return found


def _section(group: str) -> str:
    """The layer of a group; a group that is no part of a layer is its own."""
    if "." in group:  # a tensor
        return group_of("layer")(group)
    layer = re.match(r"layer \d+", group)
    return layer.group() if layer else group


def ticks(groups: Sequence[str]) -> dict[float, str]:
    """Place -> label along the groups' axis: every group where that can be read, else the middle of every layer."""
    if len(groups) <= LABELS:
        return {float(place): short(group) for place, group in enumerate(groups)}
    layers = sections(groups)
    apart = -(-len(layers) // LABELS)
    return {(section.start + section.stop - 1) / 2: section.name for section in layers[::apart]}


def draw_heat(table: CoefficientTable) -> go.Figure:
    """Coefficients by expert and group; white is 0, colours saturate at 3 so that a runaway does not hide the rest."""
    figure = go.Figure(
        go.Heatmap(
            x=list(range(len(table.groups))),
            y=table.experts,
            z=np.array(table.values),
            zmin=-3,
            zmax=3,
            colorscale="RdBu",
            zmid=0,
            colorbar={"title": "λ"},
            customdata=[table.groups] * len(table.experts),
            hovertemplate="%{y}<br>%{customdata}<br>λ = %{z:.3f}<extra></extra>",
        )
    )
    labels = ticks(table.groups)
    figure.update_xaxes(
        tickvals=list(labels), ticktext=list(labels.values()), tickangle=60, tickfont={"size": 9}, showgrid=False
    )
    figure.update_yaxes(autorange="reversed")
    layers = sections(table.groups)
    if len(layers) < len(table.groups):
        line = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "line": {"color": "#888888", "width": 0.5}}
        figure.update_layout(shapes=[{**line, "x0": one.start - 0.5, "x1": one.start - 0.5} for one in layers[1:]])
    return figure


def short(group: str) -> str:
    """A tensor's name without what all of them share."""
    return group.removeprefix("model.").removesuffix(".weight").replace("layers.", "")


@dataclass(frozen=True)
class History:
    """One study's finished trials, in order.

    Attributes:
        shares: of right validation answers, with their standard errors.
        winner: the winner's place, if it is one of these trials.
    """

    study: str
    numbers: list[int]
    labels: list[str]
    losses: list[float]
    best: list[float]
    validation: list[float | None]
    shares: list[float | None]
    errors: list[float | None]
    pruned: list[bool]
    winner: int | None


def histories(result: Result) -> list[History]:
    """Every study's losses and shares of right answers, and the lowest loss so far."""
    found = []
    for study in dict.fromkeys(trial.study for trial in result.trials):
        trials = [trial for trial in result.trials if trial.study == study]
        found.append(
            History(
                study,
                [trial.number for trial in trials],
                [trial.name or "searched" for trial in trials],
                [trial.loss for trial in trials],
                np.minimum.accumulate([np.inf if t.pruned else t.loss for t in trials]).tolist(),
                [trial.validation_loss for trial in trials],
                [trial.validation_exact for trial in trials],
                [trial.validation_exact_error for trial in trials],
                [trial.pruned for trial in trials],
                next((place for place, trial in enumerate(trials) if result.won(trial)), None),
            )
        )
    return found


def draw_history(history: History) -> go.Figure:
    """Above, search and validation loss by trial, logarithmic; below, the share of right validation answers."""
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.6, 0.4])
    symbols = ["circle-open" if pruned else "circle" for pruned in history.pruned]
    search = {"color": COLOURS["aligned"], "size": 9, "symbol": symbols}
    validation = {"color": COLOURS["naive"], "symbol": "diamond", "size": 8}
    for row, values, name, marker, errors in (
        (1, history.losses, "search", search, None),
        (1, history.validation, "validation", validation, None),
        (2, history.shares, "validation share ± 1 standard error", validation, history.errors),
    ):
        figure.add_scatter(
            x=history.numbers,
            y=values,
            error_y={"type": "data", "array": errors, "thickness": 1} if errors else None,
            text=history.labels,
            mode="markers",
            name=name,
            marker=marker,
            hovertemplate="trial %{x}: %{text}<br>%{y:.4f}<extra>" + name + "</extra>",
            row=row,
            col=1,
        )
    line = {"shape": "hv", "color": "#888888"}
    figure.add_scatter(x=history.numbers, y=history.best, mode="lines", name="best so far", line=line, row=1, col=1)
    if history.winner is not None:
        for row, values in ((1, history.validation), (2, history.shares)):
            at = ([history.numbers[history.winner]], [values[history.winner]])
            figure.add_trace(_winner(*at, history.labels[history.winner :][:1], shown=row == 1), row=row, col=1)
    figure.update_xaxes(title=f"trial of study {history.study}", row=2, col=1)
    figure.update_yaxes(title="loss (nats per token)", type="log", row=1, col=1)
    figure.update_yaxes(title="right answers", tickformat=".0%", row=2, col=1)
    return figure


def _winner(x: Sequence[float], y: Sequence[float | None], text: Sequence[str], *, shown: bool = True) -> go.Scatter:
    """The winner's mark."""
    return go.Scatter(
        x=x,
        y=y,
        text=text,
        mode="markers",
        name="winner",
        showlegend=shown,
        marker={"symbol": "star-open", "size": 20, "color": COLOURS["winner"], "line": {"width": 2}},
        hovertemplate="winner: %{text}<extra></extra>",
    )


@dataclass(frozen=True)
class Pareto:
    """Trials in the plane of the first two objectives of a search with several.

    Attributes:
        axes: names of these two.
        points: of every trial, both losses.
        front: places of the trials that no other dominates in all objectives, by their first loss.
        joined: whether these two objectives are all there are, so that the front is a line in their plane.
        winner: the winner's place, if it is one of these trials.
    """

    axes: tuple[str, str]
    numbers: list[int]
    labels: list[str]
    points: list[tuple[float, float]]
    front: list[int]
    joined: bool
    winner: int | None


def pareto(result: Result) -> Pareto | None:
    """The trials of the search that have several objectives; none if there are no such trials."""
    trials = [trial for trial in result.trials if trial.study == MAIN and len(trial.objectives) > 1]
    if not trials:
        return None
    first, second, *others = trials[0].objectives
    points = [(trial.objectives[first], trial.objectives[second]) for trial in trials]
    return Pareto(
        (first, second),
        [trial.number for trial in trials],
        [trial.name or "searched" for trial in trials],
        points,
        sorted((place for place, trial in enumerate(trials) if trial.front), key=points.__getitem__),
        not others,
        next((place for place, trial in enumerate(trials) if result.won(trial)), None),
    )


def draw_pareto(found: Pareto) -> go.Figure:
    """Two losses against each other, logarithmic; down and to the left is better."""
    figure = go.Figure()
    texts = [f"trial {number}: {label}" for number, label in zip(found.numbers, found.labels, strict=True)]
    everyone = range(len(found.points))
    for name, places, mode, colour in (
        ("trials", everyone, "markers", "#888888"),
        ("front", found.front, "lines+markers" if found.joined else "markers", COLOURS["aligned"]),
    ):
        figure.add_scatter(
            x=[found.points[place][0] for place in places],
            y=[found.points[place][1] for place in places],
            text=[texts[place] for place in places],
            mode=mode,
            name=name,
            marker={"color": colour, "size": 9},
            hovertemplate=f"%{{text}}<br>{found.axes[0]} %{{x:.4f}}<br>{found.axes[1]} %{{y:.4f}}<extra></extra>",
        )
    if found.winner is not None:
        x, y = found.points[found.winner]
        figure.add_trace(_winner([x], [y], [texts[found.winner]]))
    figure.update_xaxes(title=f"{found.axes[0]}: validation loss (nats per token)", type="log")
    figure.update_yaxes(title=f"{found.axes[1]}: validation loss (nats per token)", type="log")
    return figure
