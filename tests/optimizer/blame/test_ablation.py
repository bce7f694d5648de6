"""Ablations are the merges that they say, and predicted by the gradient."""

from pathlib import Path

import numpy as np
import pytest

from optimizer.blame.ablation import Ablating
from optimizer.blame.attribution import slopes
from optimizer.blame.merges import Merge
from optimizer.blame.sides import load_sides
from optimizer.engines.banks import bank_of
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.space import Space
from tests.optimizer.blame.bunches import merge_of
from tests.optimizer.tiny_zoo import TinyZoo


@pytest.fixture
def merge(tiny_zoo: TinyZoo, tmp_path: Path) -> Merge:
    return merge_of(tiny_zoo, tmp_path, merge={"groups": "block", "blocks": 2})


def ablating(merge: Merge, scale: float = 1.0) -> Ablating:
    engine = ScoringEngine(merge.bunch, merge.space, bank_of(merge.bunch, merge.config.merge))
    sides = load_sides(merge.config, merge.bunch)
    at = scale * merge.coefficients
    gradients = slopes(engine, sides.objective, at)
    engine.apply(at)
    return Ablating(engine, sides, at, "aligned", gradients, sides.objective.scores(engine))


def layers(merge: Merge) -> Space:
    return Space.named(merge.space.experts, merge.space.tensors, "layer")


def test_a_cell_is_an_experts_task_vector_in_a_layer(merge: Merge) -> None:
    point = ablating(merge).changed("math", ["layer 1"], layers(merge), "zero")
    changed = {
        (expert, group)
        for expert, row in zip(merge.space.experts, point, strict=True)
        for group, value in zip(merge.space.groups, row, strict=True)
        if value == 0
    }
    assert changed == {("math", group) for group in merge.space.groups if ".layers.1." in group}
    assert np.unique(point).tolist() == [0, pytest.approx(1 / 3)]


def test_all_groups_of_the_aligned_parent_are_that_model(merge: Merge) -> None:
    found = ablating(merge)
    one = found.ablate("code", layers(merge).groups, layers(merge), "aligned")
    found.engine.load("aligned")
    parent = found.sides.shares @ found.sides.losses(found.sides.objective.scores(found.engine))
    before = found.sides.shares @ found.sides.losses(found.scores)
    assert [one.alignment.measured, one.expertise.measured] == pytest.approx(parent - before, abs=1e-12)
    assert (one.expert, one.shares["safety"]) == ("", 1.0)


def test_small_changes_are_as_predicted(merge: Merge) -> None:
    found = ablating(merge, 0.03)
    for expert in merge.space.experts:
        one = found.ablate(expert, ["layer 0"], layers(merge), "zero")
        for change in (one.alignment, one.expertise):
            assert change.measured == pytest.approx(change.predicted, rel=0.1, abs=1e-3)


def test_sides_are_weighted_means(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    objective = {"safety": {"kind": "unsafe", "weight": 2}, "math": 1, "code": 3}
    one = merge_of(tiny_zoo, tmp_path, objective=objective)
    assert load_sides(one.config, one.bunch).shares.tolist() == [[1, 0, 0], [0, 0.25, 0.75]]
