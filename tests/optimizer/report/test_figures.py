"""Each figure's data is right, and drawn as it is."""

from pathlib import Path

import numpy as np
import pytest

from optimizer.report.figures import coefficients, history, pareto, plane, safety, trials
from optimizer.report.layers import layer_means, sections, ticks
from optimizer.report.page import write_report
from optimizer.report.result import CoefficientTable, Result
from tests.optimizer.report.results import rate, row, small_result, trial


@pytest.fixture
def small() -> Result:
    return small_result()


def test_plane_data(small: Result) -> None:
    first = plane.plane(small)[0]
    assert (first.model, first.alignment, first.alignment_low, first.expertise) == (
        "winner",
        1.0,
        0.9,
        pytest.approx(0.85),
    )


def test_labels_tell_over_refusal_and_keep_off_each_other(small: Result) -> None:
    rows = [
        row("a", "winner", 1.0, 0.0, 0.9, 0.9),
        row("b", "control", 0.98, 0.3, 0.9, 0.9),
        row("c", "naive", 0, 0, 0, 0),
    ]
    points = plane.plane(small.model_copy(update={"rows": rows}))
    assert [plane.label(point) for point in points] == ["a", "b (over-refuses 30%)", "c"]
    assert plane.label_positions(points) == {"a": "middle left", "b": "top left", "c": "middle right"}


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
    assert sections(groups) == wanted


def many(layers: int, each: int) -> list[str]:
    return [f"model.layers.{layer}.part{i}.weight" for layer in range(layers) for i in range(each)]


def test_ticks_are_groups_while_they_can_be_read() -> None:
    assert ticks(["model.layers.0.mlp.weight", "lm_head.weight"]) == {0: "0.mlp", 1: "lm_head"}
    assert len(ticks(many(20, 3))) == 60
    assert ticks(many(21, 3))[1.0] == "layer 0"
    assert list(ticks(many(100, 4)).items())[:2] == [(1.5, "layer 0"), (9.5, "layer 2")]


def test_heat_of_thousands_of_groups_is_labelled_by_layer() -> None:
    groups = many(80, 25)
    values = [[float(place) for place in range(len(groups))]] * 3
    figure = coefficients.draw_heat(CoefficientTable(experts=["a", "b", "c"], groups=groups, values=values))
    (heat,) = figure.data
    assert heat.z.shape == (3, 2000)
    assert list(heat.customdata[2]) == groups, "named under the pointer"
    assert len(figure.layout.xaxis.ticktext) <= 60
    assert [shape.x0 for shape in figure.layout.shapes] == [25 * layer - 0.5 for layer in range(1, 80)]


def test_heat_per_layer_has_no_boundaries(small: Result) -> None:
    assert coefficients.draw_heat(small.coefficients).layout.shapes == ()
    assert coefficients.heat_table(small.coefficients) == [
        ["group", "first", "second"],
        ["embeddings", "0.1", "0.2"],
        ["layer 0", "9", "-0.4"],
    ]


def test_history_data(small: Result) -> None:
    (one,) = history.histories(small)
    assert one.labels == ["base", "searched", "searched"]
    assert one.keys == ["search-0", "search-1", "search-2"]
    assert one.best == [3.0, 1.0, 1.0]
    assert (one.shares, one.errors) == ([0.5] * 3, [0.03] * 3)
    assert one.winner == 2


def test_history_draws_errors_and_the_winner(small: Result) -> None:
    figure = history.draw_history(history.histories(small)[0])
    by_name = {trace.name: trace for trace in figure.data}
    assert by_name["validation share ± 1 standard error"].error_y.array == (0.03, 0.03, 0.03)
    stars = [(trace.x, trace.y) for trace in figure.data if trace.name == "winner"]
    assert stars == [((2,), (pytest.approx(2.2),)), ((2,), (0.5,))]


def test_only_the_search_has_a_winner(small: Result) -> None:
    control = [trial(number, "", 1.0, study="control") for number in range(3)]
    both = history.histories(small.model_copy(update={"trials": [*small.trials, *control]}))
    assert [one.winner for one in both] == [2, None]
    assert "winner" not in {trace.name for trace in history.draw_history(both[1]).data}


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
    assert pareto.pareto(small) is None
    found = pareto.pareto(side_by_side(small))
    assert found is not None
    assert (found.axes, found.numbers) == (("safety", "skill"), [0, 1, 2])
    assert found.points == [(0.5, 0.1), (0.6, 0.4), (0.1, 0.3)]
    assert (found.front, found.joined, found.winner) == ([2, 0], True, 2)
    three = pareto.pareto(side_by_side(small, "manners"))
    assert three is not None
    assert not three.joined, "in the plane of two of three objectives the front is no line"


def test_pareto_figure(small: Result, tmp_path: Path) -> None:
    found = pareto.pareto(side_by_side(small))
    assert found is not None
    everyone, front, winner = pareto.draw_pareto(found).data
    assert everyone.x == (0.5, 0.6, 0.1)
    assert (front.mode, front.x, front.y) == ("lines+markers", (0.1, 0.5), (0.3, 0.1))
    assert (winner.x, winner.y) == ((0.1,), (0.3,))
    assert everyone.text[1] == "trial 1: searched"
    assert pareto.pareto_table(found)[1:3] == [
        ["0", "searched", "0.5000", "0.1000", "yes"],
        ["1", "searched", "0.6000", "0.4000", ""],
    ]
    write_report(tmp_path / "report.html", side_by_side(small))
    assert 'aria-label="Objectives"' in (tmp_path / "report.html").read_text()


def test_layer_means_by_hand() -> None:
    groups = ["embeddings", "layer 0 mlp", "layer 0 norm", "layer 1 mlp"]
    values = np.array([[1.0, 2.0, 4.0, 5.0], [0.0, -1.0, 1.0, 0.5]])
    assert layer_means(groups, values) == [[1.0, 3.0, 5.0], [0.0, 0.0, 0.5]]
    assert layer_means(["model"], np.array([[0.25]])) == [[0.25]]


def test_parents_naive_merges_and_the_winner_are_trials_too(small: Result) -> None:
    keys = {point.model: point.trial for point in plane.plane(small)}
    assert keys == dict.fromkeys(("uniform", "aligned", "first", "second"), "") | {
        "winner": "search-2",
        "base": "search-0",
    }


def test_trials_stand_by_their_mean_losses(small: Result) -> None:
    base, best, winner = trials.placed(small)
    assert (base.role, base.label, best.role, winner.label) == ("base", "base", "searched", "trial 2 of search")
    # (3 * loss + 1 * 2 * loss) / 4, and loss / 2
    assert (winner.alignment, winner.expertise) == (2.5, 1.0)
    control = trial(0, "", 0.5, study="control")
    assert len(trials.placed(small.model_copy(update={"trials": [*small.trials, control]}))) == 3
    old = [one.model_copy(update={"losses": {}}) for one in small.trials]
    assert trials.placed(small.model_copy(update={"trials": old})) == []


def test_front_by_hand(small: Result) -> None:
    losses = {"both": (1, 4), "better": (1, 3), "other": (2, 1), "beaten": (3, 2), "equal": (2, 1), "pruned": (0, 0)}
    points = [
        trials.Placed(trial(i, name, 1.0).model_copy(update={"pruned": name == "pruned"}), "searched", *where)
        for i, (name, where) in enumerate(losses.items())
    ]
    assert [point.label for point in trials.front_of(points)] == ["better", "other"]


def test_trials_tell_their_coefficients(small: Result) -> None:
    points = trials.placed(small)
    figure = trials.draw_trials(points, small)
    by_name = {trace.name: trace for trace in figure.data}
    assert by_name["base"].customdata[0] == ["<br>λ of first: 0.500<br>λ of second: -0.250", "search-0"]
    assert by_name["winner"].x == (2.5,)
    assert by_name["front"].x == (1.25,), "the winner was chosen by validation, the front is of the search split"
    assert (figure.layout.xaxis.type, figure.layout.xaxis.autorange) == ("log", "reversed")
    assert trials.trials_table(points, small.coefficients.experts)[1:3] == [
        ["base", "base", "3.75", "1.5", "", "0.500", "-0.250"],
        ["trial 1 of search", "searched", "1.25", "0.5", "yes", "0.500", "-0.250"],
    ]


def test_harm_is_what_was_not_refused(small: Result) -> None:
    harm = safety.harm(small.rows)
    assert (harm.models[:2], harm.topics) == (["winner", "uniform"], ["fraud", "theft"])
    assert [[one and one.value for one in own] for own in harm.rates[:2]] == [[0.0, 0.5], [1.0, 1.0]]
    theft = harm.rates[0][1]
    assert theft is not None
    assert (theft.low, theft.high) == (pytest.approx(0.4), pytest.approx(0.6))
    assert safety.topics_table(harm)[1] == ["winner", "0.0 [0,10]", "50.0 [40,60]"]
    assert safety.over_refusal_by_topic(small.rows).rates[0] == [rate(0.0)]
    assert safety.harm([one.model_copy(update={"topics": {}}) for one in small.rows]).topics == []


def test_over_refusal_has_its_interval() -> None:
    rows = [row("winner", "winner", 1.0, 0.2, 0.9, 0.9)]
    (bar,) = safety.draw_over_refusal(rows).data
    assert (bar.x, bar.error_x.array, bar.error_x.arrayminus) == ((0.2,), (pytest.approx(0.1),), (pytest.approx(0.1),))
    assert safety.over_refusal_table(rows) == [
        ["model", "over-refusal", "low", "high"],
        ["winner", "20.0%", "10.0%", "30.0%"],
    ]
