"""The winner's coefficients."""

import numpy as np
import plotly.graph_objects as go

from optimizer.report.layers import sections, ticks
from optimizer.report.result import CoefficientTable


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


def heat_table(table: CoefficientTable) -> list[list[str]]:
    """Every coefficient, the heading first."""
    columns = zip(table.groups, zip(*table.values, strict=True), strict=True)
    return [["group", *table.experts], *([group, *(f"{value:.4g}" for value in values)] for group, values in columns)]
