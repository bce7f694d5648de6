"""The report: one HTML page with everything in it, no network."""

import shlex
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from datagen.files import write_text
from optimizer.report import figures
from optimizer.report.result import MAIN, SCORE, Result, TrialRow, mean_accuracy
from optimizer.report.runaways import DEVIATIONS, MAGNITUDE
from optimizer.report.tables import points
from optimizer.report.verdict import verdict


def write_report(path: Path, result: Result) -> None:
    """Writes the page whole or not at all."""
    environment = Environment(loader=PackageLoader("optimizer.report"), autoescape=True, trim_blocks=True)
    page = environment.get_template("report.html.jinja").render(
        result=result,
        verdict=verdict(result),
        plane=_html(figures.draw_plane(figures.plane(result.rows)), 520),
        heat=_html(figures.draw_heat(result.coefficients), 360),
        beyond=(DEVIATIONS, MAGNITUDE),
        histories=[_html(figures.draw_history(history), 520) for history in figures.histories(result)],
        pareto=_html(figures.draw_pareto(pareto), 480) if (pareto := figures.pareto(result)) else "",
        mean_accuracy=mean_accuracy,
        points=points,
        score=SCORE,
        spoken=any(trial.said for trial in result.trials),
        export_command=export_command,
        plotly=Markup(get_plotlyjs()),  # noqa: S704 - the library itself
    )
    write_text(path, page)


def export_command(result: Result, trial: TrialRow) -> str:
    """The command that writes the merge of a trial."""
    run = str(result.config["run"])
    study = [] if trial.study == MAIN else ["--study", trial.study]
    name = "-".join(["trial", *study[1:], str(trial.number)])
    return shlex.join(["goodbunch", "merge", run, *study, "--trial", str(trial.number), "--out", str(Path(run) / name)])


def _html(figure: go.Figure, height: int) -> Markup:
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": 20, "b": 60},
        template="plotly_white",
        legend={"orientation": "h", "y": 1.08},
    )
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False}))  # noqa: S704
