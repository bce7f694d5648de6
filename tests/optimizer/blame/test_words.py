"""Blame falls where the costs are, and is told in words."""

import pytest

from optimizer.blame.culprits import fewest, suspect
from optimizer.blame.figures import panels
from optimizer.blame.result import Attribution, Correlation
from optimizer.blame.tables import ablation_table, expert_table
from optimizer.blame.words import words
from tests.optimizer.blame.bunches import CULPRIT, TERMS, hand_made

CLEAR = Correlation(alignment=0.9, expertise=0.9)


def table(groups: list[str], alignment: list[list[float]]) -> Attribution:
    return Attribution(groups=groups, terms={}, alignment=alignment, expertise=alignment)


def test_fewest_places_that_hold_most() -> None:
    assert fewest([0.0, 5.0, 1.0, 4.0]) == [1, 3]  # 9 of 10
    assert fewest([0.0, 4.0, 2.0, 4.0]) == [3, 1]  # 8 of 10 are just enough
    assert fewest([1.0, 0.0]) == [0]


LAYERS = ["embeddings", "layer 0", "layer 1"]
MODULES = ["embeddings", "layer 0 attention", "layer 0 mlp", "layer 1 attention", "layer 1 mlp"]


def test_suspect_is_who_costs_most() -> None:
    layers = table(LAYERS, [[-9.0, 1.0, 0.0], [0.5, 4.0, 4.5]])
    found = suspect(["a", "b"], layers, table(MODULES, [[0.0] * 5, [0.5, 0.5, 3.5, -0.5, 5.0]]))
    assert found is not None
    assert (found.expert, found.layers, found.module) == ("b", ["layer 0", "layer 1"], "mlp")
    assert found.groups == ["layer 0 mlp", "layer 1 mlp"]
    assert found.share == pytest.approx(8.5 / 10)


def test_a_module_is_named_only_if_it_holds_most() -> None:
    layers = table(LAYERS, [[0.0, 4.0, 4.0]])
    found = suspect(["a"], layers, table(MODULES, [[0.0, 2.0, 2.0, 0.0, 4.0]]))
    assert found is not None
    assert (found.module, found.groups) == ("", ["layer 0", "layer 1"])
    outside = suspect(["a"], table(LAYERS, [[9.0, 1.0, 0.0]]), table(MODULES, [[9.0, 0.0, 1.0, 0.0, 0.0]]))
    assert outside is not None
    assert outside.groups == ["embeddings"]


def test_no_one_is_blamed_where_nothing_costs() -> None:
    assert suspect(["a"], table(LAYERS, [[-1.0, 0.0, -2.0]]), table(MODULES, [[-1.0] * 5])) is None
    (sentence,) = words(TERMS, None, CLEAR)
    assert sentence.startswith("No expert costs the merge alignment")


def test_two_sentences() -> None:
    # Alignment: (3 x 1.0 + 0.2) / 4 = 0.8.
    assert words(TERMS, CULPRIT, CLEAR) == [
        "Most of what costs the merge alignment comes from bad, layer 1 (mlp): 75% of it to first order, and without "
        "it the alignment loss falls from 0.8 to 0.1 (predicted 0.45; right answers safety 0% to 100%).",
        "What it gives: without it the expertise loss rises from 0.1 to 0.4 (predicted 0.25; right answers maths 90% "
        "to 50%); if that place is the aligned parent's instead, it stays at 0.1 (predicted 0.1; right answers as "
        "before).",
    ]


def test_doubt_and_little_loss_are_told() -> None:
    kept = [term.model_copy(update={"share": 1.0}) for term in TERMS]
    cost, gain = words(kept, CULPRIT, Correlation(alignment=0.2, expertise=None))
    assert cost.startswith("Little is lost (right answers safety 100%, borderline 100%); most of what costs")
    assert gain.endswith("its rank correlation with the truth is 0.20.")


def test_panels_saturate_without_the_aligned_expert() -> None:
    blame = hand_made()
    assert [(panel.title.split(":")[0], panel.limit) for panel in panels(blame, blame.layers)] == [
        ("alignment", 0.5),
        ("expertise", 0.3),
    ]


def test_tables() -> None:
    blame = hand_made()
    assert ablation_table(blame)[1:] == [
        ["bad", "layer 1", "0", "-0.35", "-0.7", "+0.15", "+0.3"],
        ["all", "layer 1", "aligned's", "-0.35", "-0.7", "+0", "+0"],
        ["", "", "rank correlation", "", "0.90", "", ""],
    ]
    assert expert_table(blame)[1] == ["aligned", "-3.5", "+0.1", "5", "1.00", "1.00"]
