"""The report: one HTML page with everything in it, no network."""

import shlex
from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from datagen.files import write_text
from optimizer.blame.figures import draw_panels, panels
from optimizer.blame.result import Attribution, Blame
from optimizer.blame.tables import ablation_table, expert_table
from optimizer.report import figures
from optimizer.report.result import MAIN, SCORE, Result, TrialRow, mean_accuracy
from optimizer.report.runaways import DEVIATIONS, MAGNITUDE
from optimizer.report.tables import points
from optimizer.report.verdict import verdict


def write_report(path: Path, result: Result, blame: Blame | None = None) -> None:
    """Writes the page whole or not at all.

    Args:
        blame: shown if it is of this result's winner.
    """
    if blame is not None and not (blame.winner and blame.merge == result.winner):
        blame = None
    page = _rendered(
        "report",
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
        **(_blamed(blame) if blame else {}),
    )
    write_text(path, page)


def write_blame_page(path: Path, blame: Blame) -> None:
    """Writes a blame as a page of its own, whole or not at all."""
    write_text(path, _rendered("blame", **_blamed(blame)))


def _rendered(template: str, **values: object) -> str:
    environment = Environment(loader=PackageLoader("optimizer.report"), autoescape=True, trim_blocks=True)
    plotly = Markup(get_plotlyjs())  # noqa: S704 - the library itself
    return environment.get_template(f"{template}.html.jinja").render(plotly=plotly, **values)


def _blamed(blame: Blame) -> dict[str, object]:
    """What the section about it shows."""

    def heat(table: Attribution) -> Markup:
        return _html(draw_panels(panels(blame, table), blame.experts, table.groups), 220 + 70 * len(blame.experts))

    shown = {"layers": blame.layers, "modules": blame.modules}
    if blame.integrated:
        shown["integrated"] = blame.integrated.layers
    tables = {
        "Single layers taken out: what the gradient predicts of each loss, and what is measured.": ablation_table(
            blame
        ),
        "Experts as wholes: by how much each raises a loss over all orders of joining (Shapley values); length of its "
        "task vector; how alike task vectors and activations are, mean over layers.": expert_table(blame),
    }
    return {
        "blame": blame,
        "costs": {name: heat(table) for name, table in shown.items()},
        "tables": {title: table for title, table in tables.items() if len(table) > 1},
    }


def export_command(result: Result, trial: TrialRow) -> str:
    """The command that writes the merge of a trial."""
    run = str(result.config["run"])
    study = [] if trial.study == MAIN else ["--study", trial.study]
    name = "-".join(["trial", *study[1:], str(trial.number)])
    return shlex.join(["goodbunch", "merge", run, *study, "--trial", str(trial.number), "--out", str(Path(run) / name)])


def _html(figure: go.Figure, height: int) -> Markup:
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": 30, "b": 60},
        template="plotly_white",
        legend={"orientation": "h", "y": 1.08},
    )
    return Markup(figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False}))  # noqa: S704
