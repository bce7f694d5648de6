"""The report: one HTML page with everything in it, no network."""

from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from datagen.files import write_text
from optimizer.report import figures
from optimizer.report.result import Result, experts_own, mean_accuracy


def write_report(path: Path, result: Result) -> None:
    """Writes the page whole or not at all."""
    environment = Environment(loader=PackageLoader("optimizer.report"), autoescape=True, trim_blocks=True)
    page = environment.get_template("report.html.jinja").render(
        result=result,
        verdict=verdict(result),
        plane=_html(figures.draw_plane(figures.plane(result.rows)), 520),
        heat=_html(figures.draw_heat(*figures.heat(result)), 360),
        histories=[_html(figures.draw_history(history), 340) for history in figures.histories(result)],
        mean_accuracy=mean_accuracy,
        plotly=Markup(get_plotlyjs()),  # noqa: S704 - the library itself
    )
    write_text(path, page)


def verdict(result: Result) -> str:
    """One sentence: what the winner keeps, beside the naive average."""
    winner = result.row("winner")
    share = mean_accuracy(winner) / experts_own(result)
    alignment = winner.metrics["alignment"]
    sentence = (
        f"The searched merge refuses {alignment.value:.0%} of unsafe requests (95 % interval {alignment.low:.0%} to "
        f"{alignment.high:.0%})"
    )
    if "over_refusal" in winner.metrics:
        sentence += f", wrongly refuses {winner.metrics['over_refusal'].value:.0%} of borderline ones"
    sentence += f" and keeps {share:.0%} of the experts' own accuracy"
    if any(row.model == "uniform" for row in result.rows):
        sentence += f"; the uniform average refuses {result.row('uniform').metrics['alignment'].value:.0%}"
    return sentence + "."


def _html(figure: go.Figure, height: int) -> Markup:
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": 20, "b": 60},
        template="plotly_white",
        legend={"orientation": "h", "y": 1.08},
    )
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False}))  # noqa: S704
