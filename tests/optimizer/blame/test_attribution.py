"""Values are those of finite differences; integrated ones are complete; cells add up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from optimizer.blame import attribution
from optimizer.blame.attribution import by_group, integrated, slopes
from optimizer.blame.merges import Merge
from optimizer.blame.sides import load_sides
from optimizer.engines.banks import bank_of
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.space import Coefficients, Space
from tests.optimizer.blame.bunches import merge_of
from tests.optimizer.tiny_zoo import OBJECTIVE, TinyZoo

CASES: dict[str, dict[str, Any]] = {
    "layers": {},
    "tensors": {"merge": {"groups": "tensor"}},
    "blocks": {"merge": {"groups": "block", "blocks": 3}},
    "taught": {"objective": OBJECTIVE | {"like": {"kind": "math", "metric": "kl", "of": "math"}}},
}


#: Its votes jump where coefficients change against each other, but not along the line from the base.
TIES = {"method": "ties", "groups": "layer", "parameters": {"density": 0.9, "normalize": False}}


@pytest.fixture(params=list(CASES))
def merge(request: pytest.FixtureRequest, tiny_zoo: TinyZoo, tmp_path: Path) -> Merge:
    return merge_of(tiny_zoo, tmp_path, **CASES[request.param])


def losses_of(merge: Merge) -> tuple[ScoringEngine, Callable[[Coefficients], Coefficients]]:
    engine = ScoringEngine(merge.bunch, merge.space, bank_of(merge.bunch, merge.config.merge))
    sides = load_sides(merge.config, merge.bunch)

    def losses(at: Coefficients) -> Coefficients:
        engine.apply(at)
        return sides.losses(sides.objective.scores(engine))

    return engine, losses


def test_slopes_are_those_of_finite_differences(merge: Merge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attribution, "_TOKENS", 40)  # several backward passes
    engine, losses = losses_of(merge)
    objective = load_sides(merge.config, merge.bunch).objective
    found = slopes(engine, objective, merge.coefficients)
    assert found.shape == (len(objective.terms), *merge.space.shape)
    rng = np.random.default_rng(0)
    for _ in range(3):
        along = rng.choice([-1.0, 1.0], merge.space.shape) / np.sqrt(merge.coefficients.size)
        wanted = (losses(merge.coefficients + 0.01 * along) - losses(merge.coefficients - 0.01 * along)) / 0.02
        np.testing.assert_allclose((found * along).sum((1, 2)), wanted, rtol=0.02, atol=0.01)


def test_integrated_gradients_are_complete(merge: Merge) -> None:
    check_complete(merge)


def test_integrated_gradients_of_votes_are_complete(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    check_complete(merge_of(tiny_zoo, tmp_path, merge=TIES))


def check_complete(merge: Merge) -> None:
    engine, losses = losses_of(merge)
    objective = load_sides(merge.config, merge.bunch).objective
    found = integrated(engine, objective, merge.coefficients, 16)
    whole = losses(merge.coefficients) - losses(np.zeros_like(merge.coefficients))
    assert np.abs(whole).min() > 0.01
    np.testing.assert_allclose(found.sum((1, 2)), whole, atol=2e-3)


def test_cells_of_modules_add_up_to_layers(merge: Merge) -> None:
    values = np.random.default_rng(0).normal(size=(2, *merge.space.shape))
    names = merge.space.experts, merge.space.tensors
    layer, module = (Space.named(*names, granularity) for granularity in ("layer", "module"))
    by_layer, by_module = (by_group(values, space, merge.space) for space in (layer, module))
    for place, group in enumerate(layer.groups):
        inside = [i for i, name in enumerate(module.groups) if name == group or name.startswith(f"{group} ")]
        np.testing.assert_allclose(by_module[..., inside].sum(-1), by_layer[..., place])
    np.testing.assert_allclose(by_layer.sum(-1), values.sum(-1))
