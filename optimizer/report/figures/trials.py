"""All trials of the search in the plane of their losses of alignment and of expertise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from datagen.data_config import SAFETY_KINDS
from optimizer.report.figures.drawing import COLOURS, GREY, SYMBOLS, winner_mark
from optimizer.report.result import MAIN, REFINED, Result, TrialRow


@dataclass(frozen=True)
class Placed:
    """A trial in the plane.

    Attributes:
        role: of the model that it is: a parent's, a merge's by name; or `searched`.
        alignment: weighted mean loss of the terms on unsafe and borderline rows.
        expertise: the same of all others.
    """

    trial: TrialRow
    role: str
    alignment: float
    expertise: float

    @property
    def label(self) -> str:
        """What it is called."""
        return self.trial.name or f"trial {self.trial.number} of {self.trial.study}"


def placed(result: Result) -> list[Placed]:
    """Trials of the search and of its refinement; controls have other terms and are in no plane with these."""
    roles = {row.model: row.role for row in result.rows}
    objective: Any = result.config.get("objective", {})
    kinds = {term: settings.get("kind") or term for term, settings in objective.items()}
    weights = {term: settings.get("weight", 1.0) for term, settings in objective.items()}
    found = []
    for trial in result.trials:
        if trial.study not in (MAIN, REFINED):
            continue
        safe = {term: loss for term, loss in trial.losses.items() if kinds.get(term, term) in SAFETY_KINDS}
        rest = {term: loss for term, loss in trial.losses.items() if term not in safe}
        if safe and rest:
            role = roles.get(trial.name, "naive") if trial.name else "searched"
            found.append(Placed(trial, role, _mean(safe, weights), _mean(rest, weights)))
    return found


def _mean(losses: Mapping[str, float], weights: Mapping[str, float]) -> float:
    own = {term: weights.get(term, 1.0) for term in losses}
    return sum(own[term] * loss for term, loss in losses.items()) / sum(own.values())


def front_of(points: Sequence[Placed]) -> list[Placed]:
    """Those that no other is better than in one and as good as in the other, by alignment; none that was pruned.

    A sweep from the lowest alignment loss: a point is on the front if its expertise loss is below all before it.
    """
    front: list[Placed] = []
    for point in sorted(points, key=lambda point: (point.alignment, point.expertise)):
        if not point.trial.pruned and (not front or point.expertise < front[-1].expertise):
            front.append(point)
    return front


def draw_trials(points: Sequence[Placed], result: Result) -> go.Figure:
    """Two losses against each other, logarithmic and turned round, so that up and to the right is better."""
    figure = go.Figure()
    front = front_of(points)
    figure.add_scatter(
        x=[p.alignment for p in front],
        y=[p.expertise for p in front],
        mode="lines",
        name="front",
        line={"color": COLOURS["aligned"], "dash": "dot"},
        hoverinfo="skip",
    )
    for role, pruned in dict.fromkeys((p.role, p.trial.pruned) for p in points):
        some = [p for p in points if (p.role, p.trial.pruned) == (role, pruned)]
        figure.add_scatter(
            x=[p.alignment for p in some],
            y=[p.expertise for p in some],
            text=[p.label for p in some],
            customdata=[[told(p.trial, result.coefficients.experts), p.trial.key] for p in some],
            mode="markers",
            name=f"{role}, pruned" if pruned else role,
            marker={
                "size": 8 if role == "searched" else 12,
                "color": COLOURS.get(role, GREY),
                "symbol": SYMBOLS.get(role, "circle") + ("-open" if pruned else ""),
            },
            hovertemplate="%{text}<br>alignment loss %{x:.4g}, expertise loss %{y:.4g}%{customdata[0]}<extra></extra>",
        )
    won = [p for p in points if result.won(p.trial)]
    if won:
        x, y = [p.alignment for p in won], [p.expertise for p in won]
        texts = [p.label + told(p.trial, result.coefficients.experts) for p in won]
        figure.add_trace(winner_mark(x, y, texts, [p.trial.key for p in won]))
    for axis, values, title in (
        (figure.update_xaxes, [p.alignment for p in points], "alignment loss"),
        (figure.update_yaxes, [p.expertise for p in points], "expertise loss"),
    ):
        scale = {"type": "log", "nticks": 6, "exponentformat": "power"} if min(values) > 0 else {}
        axis(title=f"{title}, less is better", autorange="reversed", **scale)
    return figure


def told(trial: TrialRow, experts: Sequence[str]) -> str:
    """What shows of a trial's coefficients under the pointer: the mean of each expert's."""
    means = [sum(row) / len(row) for row in trial.layers]
    return "".join(f"<br>λ of {expert}: {mean:.3f}" for expert, mean in zip(experts, means, strict=bool(means)))


def trials_table(points: Sequence[Placed], experts: Sequence[str]) -> list[list[str]]:
    """Every point, the heading first."""
    front = {id(point) for point in front_of(points)}
    table = [
        ["trial", "role", "alignment loss", "expertise loss", "front", *(f"mean λ of {expert}" for expert in experts)]
    ]
    for p in points:
        told = "yes" if id(p) in front else "pruned" if p.trial.pruned else ""
        means = [f"{sum(row) / len(row):.3f}" for row in p.trial.layers] or [""] * len(experts)
        table.append([p.label, p.role, f"{p.alignment:.4g}", f"{p.expertise:.4g}", told, *means])
    return table
