"""Heat maps of what cells cost and give: functions that shape the data, and a thin one that draws it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from optimizer.blame.result import SIDES, Attribution, Blame
from optimizer.report.layers import ticks


@dataclass(frozen=True)
class Panel:
    """One heat map.

    Attributes:
        title: above it.
        values: by how much a cell raises the side's loss, [experts, groups].
        limit: where colours saturate, on both sides of 0.
    """

    title: str
    values: list[list[float]]
    limit: float


def panels(blame: Blame, table: Attribution) -> list[Panel]:
    """Alignment and expertise, each on a scale of its own.

    Colours saturate at the largest value of the experts that are not the aligned one: what that one does for alignment
    is most of all, and would leave the rest white.
    """
    found = []
    for side in SIDES:
        values = table.alignment if side == "alignment" else table.expertise
        others = [row for expert, row in zip(blame.experts, values, strict=True) if expert != blame.aligned]
        limit = float(np.abs(np.array(others or values)).max()) or 1.0
        found.append(Panel(f"{side}: red costs, blue gives", values, limit))
    return found


def draw_panels(shown: Sequence[Panel], experts: Sequence[str], groups: Sequence[str]) -> go.Figure:
    """Heat maps one above the other; red raises the loss, blue lowers it, told apart with any colour vision."""
    figure = make_subplots(
        rows=len(shown), shared_xaxes=True, vertical_spacing=0.14, subplot_titles=[one.title for one in shown]
    )
    height = 1 / len(shown)
    for row, panel in enumerate(shown, 1):
        figure.add_trace(
            go.Heatmap(
                x=list(range(len(groups))),
                y=list(experts),
                z=panel.values,
                zmin=-panel.limit,
                zmax=panel.limit,
                colorscale="RdBu_r",
                colorbar={"title": "nats", "len": height * 0.9, "y": 1 - height * (row - 0.5)},
                customdata=[list(groups)] * len(experts),
                hovertemplate="%{y}<br>%{customdata}<br>%{z:+.4g} nats<extra></extra>",
            ),
            row=row,
            col=1,
        )
        figure.update_yaxes(autorange="reversed", row=row, col=1)
    labels = ticks(groups)
    figure.update_xaxes(tickvals=list(labels), ticktext=list(labels.values()), tickangle=60, showgrid=False)
    return figure


def panels_table(shown: Sequence[Panel], experts: Sequence[str], groups: Sequence[str]) -> list[list[str]]:
    """Every cell in nats, the heading first: a column for each panel and expert."""
    heads = [f"{one.title.partition(':')[0]}, {expert}" for one in shown for expert in experts]
    rows = [row for one in shown for row in one.values]
    return [["group", *heads], *([group, *(f"{row[i]:+.3g}" for row in rows)] for i, group in enumerate(groups))]
