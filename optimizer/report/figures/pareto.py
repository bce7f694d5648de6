"""Trials of a search with several objectives."""

from dataclasses import dataclass

import plotly.graph_objects as go

from optimizer.report.figures.drawing import COLOURS, GREY, winner_mark
from optimizer.report.result import MAIN, Result


@dataclass(frozen=True)
class Pareto:
    """Trials in the plane of the first two objectives of a search with several.

    Attributes:
        axes: names of these two.
        keys: by which the page finds them.
        points: of every trial, both losses.
        front: places of the trials that no other dominates in all objectives, by their first loss.
        joined: whether these two objectives are all there are, so that the front is a line in their plane.
        winner: the winner's place, if it is one of these trials.
    """

    axes: tuple[str, str]
    numbers: list[int]
    labels: list[str]
    keys: list[str]
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
        [trial.key for trial in trials],
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
        ("trials", everyone, "markers", GREY),
        ("front", found.front, "lines+markers" if found.joined else "markers", COLOURS["aligned"]),
    ):
        figure.add_scatter(
            x=[found.points[place][0] for place in places],
            y=[found.points[place][1] for place in places],
            text=[texts[place] for place in places],
            customdata=[found.keys[place] for place in places],
            mode=mode,
            name=name,
            marker={"color": colour, "size": 9},
            hovertemplate=f"%{{text}}<br>{found.axes[0]} %{{x:.4f}}<br>{found.axes[1]} %{{y:.4f}}<extra></extra>",
        )
    if found.winner is not None:
        x, y = found.points[found.winner]
        figure.add_trace(winner_mark([x], [y], [texts[found.winner]], [found.keys[found.winner]]))
    figure.update_xaxes(title=f"{found.axes[0]}: validation loss (nats per token)", type="log")
    figure.update_yaxes(title=f"{found.axes[1]}: validation loss (nats per token)", type="log")
    return figure


def pareto_table(found: Pareto) -> list[list[str]]:
    """Every point, the heading first."""
    table = [["trial", "name", *found.axes, "front"]]
    for place, (number, label, point) in enumerate(zip(found.numbers, found.labels, found.points, strict=True)):
        losses = [f"{loss:.4f}" for loss in point]
        table.append([str(number), label, *losses, "yes" if place in found.front else ""])
    return table
