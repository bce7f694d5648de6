"""Every study's trials in their order."""

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from optimizer.report.figures.drawing import COLOURS, GREY, winner_mark
from optimizer.report.result import Result


@dataclass(frozen=True)
class History:
    """One study's finished trials, in order.

    Attributes:
        keys: by which the page finds them.
        shares: of right validation answers, with their standard errors.
        winner: the winner's place, if it is one of these trials.
    """

    study: str
    numbers: list[int]
    labels: list[str]
    keys: list[str]
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
                [trial.key for trial in trials],
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
            customdata=history.keys,
            mode="markers",
            name=name,
            marker=marker,
            hovertemplate="trial %{x}: %{text}<br>%{y:.4f}<extra>" + name + "</extra>",
            row=row,
            col=1,
        )
    line = {"shape": "hv", "color": GREY}
    figure.add_scatter(x=history.numbers, y=history.best, mode="lines", name="best so far", line=line, row=1, col=1)
    if history.winner is not None:
        for row, values in ((1, history.validation), (2, history.shares)):
            place = history.winner
            at = ([history.numbers[place]], [values[place]], [history.labels[place]], [history.keys[place]])
            figure.add_trace(winner_mark(*at, shown=row == 1), row=row, col=1)
    figure.update_xaxes(title=f"trial of study {history.study}", row=2, col=1)
    figure.update_yaxes(title="loss (nats per token)", type="log", nticks=6, exponentformat="power", row=1, col=1)
    figure.update_yaxes(title="right answers", tickformat=".0%", row=2, col=1)
    return figure
