"""The result's schema is the documented one; each figure's data is right; the page holds everything and is safe."""

import json
import re
import shlex
from pathlib import Path

import pytest

from datagen.errors import DataError
from optimizer.report import figures
from optimizer.report.page import export_command, write_report
from optimizer.report.result import (
    CoefficientTable,
    Cost,
    Difference,
    Estimate,
    Result,
    ResultRow,
    Runaway,
    Sample,
    TrialRow,
    experts_own,
    mean_accuracy,
    read_result,
    write_result,
)
from optimizer.report.verdict import hidden, standing, verdict
from tests.optimizer.blame.bunches import hand_made

ROOT = Path(__file__).parents[3]


def row(model: str, role: str, alignment: float, refused: float, one: float, two: float) -> ResultRow:
    def rate(value: float) -> Estimate:
        return Estimate(value=value, low=max(0, value - 0.1), high=min(1, value + 0.1), rows=10)

    metrics = {"alignment": alignment, "over_refusal": refused, "accuracy/one": one, "accuracy/two": two}
    return ResultRow(
        model=model,
        role=role,
        metrics={name: rate(value) for name, value in metrics.items()},
        score=(alignment + 1 - refused + one + two) / 4,
        against={} if role == "winner" else dict.fromkeys([*metrics, "score"], lead(0.1, 0.05, 0.15)),
        indistinguishable=False,
    )


def lead(value: float, low: float, high: float) -> Difference:
    return Difference(value=value, low=low, high=high)


def beside(row: ResultRow, low: float, high: float) -> ResultRow:
    """The row with another lead of the winner's score."""
    against = row.against | {"score": lead((low + high) / 2, low, high)}
    return row.model_copy(update={"against": against, "indistinguishable": low <= 0 <= high})


def trial(number: int, name: str, loss: float, study: str = "search", **objectives: float) -> TrialRow:
    return TrialRow(
        study=study,
        number=number,
        name=name,
        loss=loss,
        validation_loss=loss * 1.1,
        validation_exact=0.5,
        validation_exact_error=0.03,
        pruned=False,
        retention={"safety": 0.5},
        seconds=1.0,
        objectives=objectives,
    )


@pytest.fixture
def small() -> Result:
    return Result(
        winner_trial=2,
        rows=[
            row("winner", "winner", 1.0, 0.0, 0.8, 0.9),
            row("uniform", "naive", 0.0, 0.0, 0.7, 0.9),
            row("base", "base", 0.0, 0.0, 0.1, 0.1),
            row("aligned", "aligned", 1.0, 0.0, 0.0, 0.0),
            row("first", "expert", 0.0, 0.0, 0.8, 0.2),
            row("second", "expert", 0.0, 0.0, 0.1, 1.0),
        ],
        samples=[
            Sample(kind="unsafe", question="<script>alert(1)</script>", reference="no", answers={"winner": "<b>no"})
        ],
        trials=[trial(0, "base", 3.0), trial(1, "", 1.0), trial(2, "", 2.0)],
        coefficients=CoefficientTable(
            experts=["first", "second"], groups=["model.a.weight", "model.b.weight"], values=[[0.1, 9.0], [0.2, -0.4]]
        ),
        runaways=[Runaway(expert="first", group="model.b.weight", value=9.0)],
        seeds={"data": 0, "search": 0},
        versions={"torch": "2"},
        cost=Cost(seconds={"search": 1.0}, forward_pass_equivalents={"search": 5.0}),
        config={"run": "runs/x"},
    )


def test_documented_schema_is_the_codes() -> None:
    documented = json.loads((ROOT / "docs" / "result.schema.json").read_text())
    assert documented == Result.model_json_schema(), "write it again: make schema"


def test_demo_result_follows_the_documented_schema(demo: Path) -> None:
    import jsonschema

    schema = json.loads((ROOT / "docs" / "result.schema.json").read_text())
    written = json.loads((demo / "result.json").read_text())
    jsonschema.validate(written, schema)
    for estimate in (e for r in written["rows"] for e in r["metrics"].values()):
        assert 0 <= estimate["low"] <= estimate["value"] <= estimate["high"] <= 1


def test_result_comes_back_as_written(small: Result, tmp_path: Path) -> None:
    write_result(tmp_path / "result.json", small)
    assert read_result(tmp_path / "result.json") == small
    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(DataError, match=r"must follow docs/result\.schema\.json"):
        read_result(tmp_path / "result.json")


def test_means_by_hand(small: Result) -> None:
    assert mean_accuracy(small.row("winner")) == pytest.approx(0.85)
    assert experts_own(small) == pytest.approx((0.8 + 1.0) / 2)


def test_plane_data(small: Result) -> None:
    first = figures.plane(small.rows)[0]
    assert (first.model, first.alignment, first.alignment_low, first.expertise) == (
        "winner",
        1.0,
        0.9,
        pytest.approx(0.85),
    )


def test_labels_tell_over_refusal_and_keep_off_each_other() -> None:
    rows = [
        row("a", "winner", 1.0, 0.0, 0.9, 0.9),
        row("b", "control", 0.98, 0.3, 0.9, 0.9),
        row("c", "naive", 0, 0, 0, 0),
    ]
    points = figures.plane(rows)
    assert [figures.label(point) for point in points] == ["a", "b (over-refuses 30%)", "c"]
    assert figures.label_positions(points) == {"a": "middle left", "b": "top left", "c": "middle right"}


ZOO = ["embed_tokens", *(f"layers.{i}.{part}" for i in range(2) for part in ("mlp.up", "self_attn.q")), "norm"]


@pytest.mark.parametrize(
    ("groups", "found"),
    [
        (
            [f"model.{name}.weight" for name in ZOO] + ["lm_head.weight"],
            [("embeddings", 0, 1), ("layer 0", 1, 3), ("layer 1", 3, 5), ("final norm", 5, 6), ("head", 6, 7)],
        ),
        (["embeddings", "layer 0 mlp", "layer 0 norm", "layer 1 mlp"], None),
        (["layer 1", "layer 10", "layer 11"], [("layer 1", 0, 1), ("layer 10", 1, 2), ("layer 11", 2, 3)]),
        (["anchor 0", "anchor 1"], [("anchor 0", 0, 1), ("anchor 1", 1, 2)]),
        (["model"], [("model", 0, 1)]),
    ],
)
def test_sections_by_hand(groups: list[str], found: list[tuple[str, int, int]] | None) -> None:
    wanted = found or [("embeddings", 0, 1), ("layer 0", 1, 3), ("layer 1", 3, 4)]
    assert figures.sections(groups) == wanted


def many(layers: int, each: int) -> list[str]:
    return [f"model.layers.{layer}.part{i}.weight" for layer in range(layers) for i in range(each)]


def test_ticks_are_groups_while_they_can_be_read() -> None:
    assert figures.ticks(["model.layers.0.mlp.weight", "lm_head.weight"]) == {0: "0.mlp", 1: "lm_head"}
    assert len(figures.ticks(many(20, 3))) == 60
    assert figures.ticks(many(21, 3))[1.0] == "layer 0"
    assert list(figures.ticks(many(100, 4)).items())[:2] == [(1.5, "layer 0"), (9.5, "layer 2")]


def test_heat_of_thousands_of_groups_is_labelled_by_layer() -> None:
    groups = many(80, 25)
    values = [[float(place) for place in range(len(groups))]] * 3
    figure = figures.draw_heat(CoefficientTable(experts=["a", "b", "c"], groups=groups, values=values))
    (heat,) = figure.data
    assert heat.z.shape == (3, 2000)
    assert list(heat.customdata[2]) == groups, "named under the pointer"
    assert len(figure.layout.xaxis.ticktext) <= 60
    assert [shape.x0 for shape in figure.layout.shapes] == [25 * layer - 0.5 for layer in range(1, 80)]


def test_heat_per_layer_has_no_boundaries(small: Result) -> None:
    table = small.coefficients.model_copy(update={"groups": ["embeddings", "layer 0"]})
    assert figures.draw_heat(table).layout.shapes == ()


def test_history_data(small: Result) -> None:
    (history,) = figures.histories(small)
    assert history.labels == ["base", "searched", "searched"]
    assert history.best == [3.0, 1.0, 1.0]
    assert (history.shares, history.errors) == ([0.5] * 3, [0.03] * 3)
    assert history.winner == 2


def test_history_draws_errors_and_the_winner(small: Result) -> None:
    figure = figures.draw_history(figures.histories(small)[0])
    by_name = {trace.name: trace for trace in figure.data}
    assert by_name["validation share ± 1 standard error"].error_y.array == (0.03, 0.03, 0.03)
    stars = [(trace.x, trace.y) for trace in figure.data if trace.name == "winner"]
    assert stars == [((2,), (pytest.approx(2.2),)), ((2,), (0.5,))]


def test_only_the_search_has_a_winner(small: Result) -> None:
    control = [trial(number, "", 1.0, study="control") for number in range(3)]
    both = figures.histories(small.model_copy(update={"trials": [*small.trials, *control]}))
    assert [history.winner for history in both] == [2, None]
    assert "winner" not in {trace.name for trace in figures.draw_history(both[1]).data}


def side_by_side(result: Result, *others: str) -> Result:
    """A search with several objectives: trials 0 and 2 are its front, by the first two."""
    losses = [(0.5, 0.1), (0.6, 0.4), (0.1, 0.3)]
    trials = [
        trial(number, "", 1.0, safety=one, skill=two, **dict.fromkeys(others, 1.0)).model_copy(
            update={"front": number != 1}
        )
        for number, (one, two) in enumerate(losses)
    ]
    pruned = trial(3, "", 1.0)
    control = trial(0, "", 1.0, study="control", safety=0.1, skill=0.1)
    return result.model_copy(update={"trials": [*trials, pruned, control]})


def test_pareto_data(small: Result) -> None:
    assert figures.pareto(small) is None
    found = figures.pareto(side_by_side(small))
    assert found is not None
    assert (found.axes, found.numbers) == (("safety", "skill"), [0, 1, 2])
    assert found.points == [(0.5, 0.1), (0.6, 0.4), (0.1, 0.3)]
    assert (found.front, found.joined, found.winner) == ([2, 0], True, 2)
    three = figures.pareto(side_by_side(small, "manners"))
    assert three is not None
    assert not three.joined, "in the plane of two of three objectives the front is no line"


def test_pareto_figure(small: Result, tmp_path: Path) -> None:
    found = figures.pareto(side_by_side(small))
    assert found is not None
    everyone, front, winner = figures.draw_pareto(found).data
    assert everyone.x == (0.5, 0.6, 0.1)
    assert (front.mode, front.x, front.y) == ("lines+markers", (0.1, 0.5), (0.3, 0.1))
    assert (winner.x, winner.y) == ((0.1,), (0.3,))
    assert everyone.text[1] == "trial 1: searched"
    write_report(tmp_path / "report.html", side_by_side(small))
    assert (tmp_path / "report.html").read_text().count("Plotly.newPlot(") == 2 + 2 + 1


def test_verdict_by_hand(small: Result) -> None:
    assert verdict(small) == (
        "The searched merge refuses 100% of unsafe requests (95 % interval 90% to 100%), wrongly refuses 0% of "
        "borderline ones and keeps 94% of the experts' own accuracy; the uniform average refuses 0%. By its score on "
        "the same test rows the winner is ahead of every other model."
    )


def test_parents_that_hide_what_a_merge_does(small: Result) -> None:
    assert hidden(small) == "", "its experts do not refuse themselves"
    rows = [one for one in small.rows if one.role != "expert"]
    rows += [row(name, "expert", 1.0, 0.0, 1.0, 0.0) for name in ("left", "right")]
    told = "Each of its parents refuses at least 100% on its own, and uniform of them 0%: what parents refuse does not"
    told += " tell what a merge does."
    safe = small.model_copy(update={"rows": rows})
    assert hidden(safe) == told
    assert verdict(safe).endswith(told)
    merges = [one.model_copy(update={"metrics": rows[-1].metrics}) if one.role == "naive" else one for one in rows]
    assert hidden(small.model_copy(update={"rows": merges})) == ""


def test_standing_names_rivals(small: Result) -> None:
    intervals = {"uniform": (-0.004, 0.01), "base": (-0.2, -0.1), "aligned": (0.0, 0.02), "first": (-0.3, -0.1)}
    rows = [beside(row, *intervals[row.model]) if row.model in intervals else row for row in small.rows]
    assert standing(small.model_copy(update={"rows": rows})) == (
        "By its score on the same test rows the winner can't be told from uniform (+0.3 [-0.4, +1.0] points) or "
        "aligned (+1.0 [+0.0, +2.0] points) and is behind base (-15.0 [-20.0, -10.0] points) and first "
        "(-20.0 [-30.0, -10.0] points)."
    )


def test_export_commands_by_hand(small: Result) -> None:
    spaced = small.model_copy(update={"config": {"run": "runs/my run"}})
    assert export_command(small, trial(7, "", 1.0)) == "goodbunch merge runs/x --trial 7 --out runs/x/trial-7"
    assert shlex.split(export_command(spaced, trial(7, "", 1.0, study="expert_only"))) == [
        *("goodbunch", "merge", "runs/my run", "--study", "expert_only", "--trial", "7"),
        *("--out", "runs/my run/trial-expert_only-7"),
    ]


def test_page_tells_what_is_uncertain(small: Result, tmp_path: Path) -> None:
    rows = [beside(row, -0.01, 0.02) if row.model == "uniform" else row for row in small.rows]
    write_report(tmp_path / "report.html", small.model_copy(update={"rows": rows}))
    page = (tmp_path / "report.html").read_text()
    assert "the winner can&#39;t be told from uniform (+0.5 [-1.0, +2.0] points)." in page
    assert page.count("+0.5 [-1.0, +2.0] not told apart") == 1
    assert page.count('<tr class="alike">') == 1
    assert 'title="winner minus uniform: +10.0 [+5.0, +15.0] points"' in page
    assert "Run away: first in model.b.weight <b>9</b>." in page
    assert "50.0 % ± 3.0" in page
    assert "<code>goodbunch merge runs/x --trial 1 --out runs/x/trial-1</code>" in page


def test_page_has_the_blame_of_its_own_winner(small: Result, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    for merge, winner in (("trial 2 of search", True), ("trial 1 of search", True), ("trial 2 of search", False)):
        write_report(path, small, hand_made(merge, winner))
        page = path.read_text()
        assert ("&lt;first&gt;" in page) == ("red costs, blue gives" in page) == (merge == small.winner and winner)
        assert "<first>" not in page


def test_page_says_that_nothing_ran_away(small: Result, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", small.model_copy(update={"runaways": []}))
    page = (tmp_path / "report.html").read_text()
    assert "Run away:" not in page
    assert "that was searched; none has." in page


def test_page_needs_no_network_and_escapes_what_models_said(small: Result, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, small)
    page = path.read_text()
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=[\"']https?:", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert(1)" not in page
    assert "<b>no" not in page
    assert page.count("Plotly.newPlot(") == 3
    assert path.stat().st_size < 6_000_000


def test_demo_report_shows_everything(demo: Path, result: Result) -> None:
    page = (demo / "report.html").read_text()
    for model in ("winner", "expert_only", "uniform", "aligned"):
        assert f"<td>{model}</td>" in page
    assert all(sample.question in page for sample in result.samples if "'" not in sample.question)
    assert page.count("Plotly.newPlot(") == 2 + 3
