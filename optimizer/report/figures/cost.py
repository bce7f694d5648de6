"""What the run took."""

import plotly.graph_objects as go

from optimizer.report.figures.drawing import COLOURS
from optimizer.report.result import Cost


def draw_cost(cost: Cost) -> go.Figure:
    """Seconds by phase."""
    figure = go.Figure(
        go.Bar(
            x=list(cost.seconds.values()),
            y=list(cost.seconds),
            orientation="h",
            marker={"color": COLOURS["aligned"]},
            hovertemplate="%{y}: %{x:.1f} s<extra></extra>",
        )
    )
    figure.update_xaxes(title="seconds")
    figure.update_yaxes(autorange="reversed")
    return figure


def cost_table(cost: Cost) -> list[list[str]]:
    """Seconds by phase, and forward passes over a search set by study; the heading first."""
    return [
        ["what", "cost"],
        *([phase, f"{seconds:.1f} s"] for phase, seconds in cost.seconds.items()),
        *([f"study {study}", f"{passes:.1f} passes"] for study, passes in cost.forward_pass_equivalents.items()),
    ]
