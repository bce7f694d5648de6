"""The report: one HTML page with everything in it, no network."""

from pathlib import Path

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from datagen.files import write_text
from optimizer.blame.figures import draw_panels, panels, panels_table
from optimizer.blame.result import Attribution, Blame
from optimizer.blame.tables import ablation_table, expert_table
from optimizer.report.commands import export_command, next_commands
from optimizer.report.figures import coefficients, cost, history, pareto, plane, safety, trials
from optimizer.report.figures.drawing import Drawing
from optimizer.report.layers import sections
from optimizer.report.result import OVER_REFUSAL, SCORE, Result, mean_accuracy
from optimizer.report.runaways import DEVIATIONS, MAGNITUDE
from optimizer.report.tables import points
from optimizer.report.verdict import verdict

#: What a page has room for: trials, coefficients of theirs by layer, and characters of an answer.
MOST_TRIALS, MOST_CELLS, MOST_CHARACTERS = 1000, 100_000, 1200


def write_report(path: Path, result: Result, blame: Blame | None = None) -> None:
    """Writes the page whole or not at all.

    Args:
        blame: shown if it is of this result's winner.
    """
    if blame is not None and not (blame.winner and blame.merge == result.winner):
        blame = None
    shown = fitting(result)
    page = _rendered(
        "report",
        result=shown,
        left_out=len(result.trials) - len(shown.trials),
        verdict=verdict(result),
        drawings=_drawings(shown),
        histories={one.study: Drawing(history.draw_history(one), (), 520) for one in history.histories(shown)},
        layers=[section.name for section in sections(result.coefficients.groups)],
        beyond=(DEVIATIONS, MAGNITUDE),
        most=MOST_CHARACTERS,
        mean_accuracy=mean_accuracy,
        points=points,
        score=SCORE,
        spoken=any(trial.said for trial in shown.trials),
        export_command=export_command,
        commands=next_commands(result),
        **(_blamed(blame) if blame else {}),
    )
    write_text(path, page)


def write_blame_page(path: Path, blame: Blame) -> None:
    """Writes a blame as a page of its own, whole or not at all."""
    write_text(path, _rendered("blame", **_blamed(blame)))


def fitting(result: Result) -> Result:
    """The result as far as a page has room for it: the trials of lowest loss, and the winner."""
    kept = sorted(result.trials, key=lambda trial: (not result.won(trial), trial.pruned, trial.loss))[:MOST_TRIALS]
    keys = {trial.key for trial in kept}
    found = [trial for trial in result.trials if trial.key in keys]
    if sum(len(row) for trial in found for row in trial.layers) > MOST_CELLS:
        # The mean of each expert's is what shows under the pointer.
        found = [
            trial.model_copy(update={"layers": [[sum(row) / len(row)] for row in trial.layers]}) for trial in found
        ]
    return result.model_copy(update={"trials": found})


def _drawings(result: Result) -> dict[str, Drawing]:
    """Section -> its figure; those without data are left out."""
    rows, table = result.rows, result.coefficients
    where = plane.plane(result)
    found = {
        "plane": Drawing(plane.draw_plane(where), plane.plane_table(where), 520),
        "heat": Drawing(coefficients.draw_heat(table), coefficients.heat_table(table), 160 + 50 * len(table.experts)),
        "cost": Drawing(cost.draw_cost(result.cost), cost.cost_table(result.cost), 120 + 30 * len(result.cost.seconds)),
    }
    if some := trials.placed(result):
        found["trials"] = Drawing(trials.draw_trials(some, result), trials.trials_table(some, table.experts), 520)
    tall = 160 + 28 * len(rows)
    if (harm := safety.harm(rows)).topics:
        found["harm"] = Drawing(safety.draw_topics(harm), safety.topics_table(harm), tall)
    if OVER_REFUSAL in rows[0].metrics:
        found["over_refusal"] = Drawing(safety.draw_over_refusal(rows), safety.over_refusal_table(rows), tall)
    if (refused := safety.over_refusal_by_topic(rows)).topics:
        found["refused"] = Drawing(safety.draw_topics(refused), safety.topics_table(refused), tall)
    if front := pareto.pareto(result):
        found["pareto"] = Drawing(pareto.draw_pareto(front), pareto.pareto_table(front), 480)
    return found


def _rendered(template: str, **values: object) -> str:
    environment = Environment(loader=PackageLoader("optimizer.report"), autoescape=True, trim_blocks=True)
    environment.filters["figure"] = _json
    plotly = Markup(get_plotlyjs())  # noqa: S704 - the library itself
    return environment.get_template(f"{template}.html.jinja").render(plotly=plotly, **values)


def _json(drawing: Drawing) -> Markup:
    """A figure as the page's script reads it; its colours are the page's, so Plotly's own template is left out."""
    drawing.figure.update_layout(template="none", height=drawing.height)
    return Markup(drawing.figure.to_json())  # noqa: S704 - Plotly writes <, > and / as escapes


def _blamed(blame: Blame) -> dict[str, object]:
    """What the section about it shows."""

    def heat(table: Attribution) -> Drawing:
        shown = panels(blame, table)
        figure = draw_panels(shown, blame.experts, table.groups)
        return Drawing(figure, panels_table(shown, blame.experts, table.groups), 220 + 70 * len(blame.experts))

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
