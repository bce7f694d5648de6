"""What all figures share: colours, marks, and the data beside them as text."""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

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

#: What stands beside neither role: the other trials, and lines.
GREY = "#888888"


@dataclass(frozen=True)
class Drawing:
    """A figure with its data.

    Attributes:
        figure: as Plotly has it; the page adds colours of the background, light or dark.
        table: the same data as text, the heading first; empty if the page shows them elsewhere.
        height: in pixels.
    """

    figure: go.Figure
    table: Sequence[Sequence[str]]
    height: int


def share(value: float | None) -> str:
    """A share as text."""
    return "" if value is None else f"{value:.1%}"


def winner_mark(
    x: Sequence[float], y: Sequence[float | None], text: Sequence[str], keys: Sequence[str], *, shown: bool = True
) -> go.Scatter:
    """The winner's star.

    Args:
        keys: of its trial on the page.
        shown: whether the legend names it.
    """
    return go.Scatter(
        x=x,
        y=y,
        text=text,
        customdata=keys,
        mode="markers",
        name="winner",
        showlegend=shown,
        marker={"symbol": "star-open", "size": 20, "color": COLOURS["winner"], "line": {"width": 2}},
        hovertemplate="winner: %{text}<extra></extra>",
    )
