from pathlib import Path

import numpy as np
import pytest

from optimizer.engines.banks import space_of
from optimizer.recipes.searched import recipe_of
from optimizer.search.domain import Point
from tests.optimizer.tiny_zoo import TinyZoo


@pytest.mark.parametrize("groups", ["model", "anchors", "layer", "module", "tensor", "block"])
def test_a_recipe_has_the_coefficients_that_were_searched(tiny_zoo: TinyZoo, tmp_path: Path, groups: str) -> None:
    config = tiny_zoo.config(tmp_path, merge={"groups": groups, "anchors": 4, "blocks": 3})
    space = space_of(tiny_zoo.bunch, config.merge)
    coefficients = np.random.default_rng(0).normal(size=space.shape)
    resolved = recipe_of(config, space, Point(coefficients, {})).resolve(tiny_zoo.bunch.names)
    wanted = space.by_tensor(coefficients)
    assert {name: np.array(one.coefficients).tolist() for name, one in resolved.items()} == wanted


def test_a_recipe_has_the_hyper_parameters_that_were_searched(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    given = {"method": "della_linear", "parameters": {"density": [0.5, 0.6, 0.7], "epsilon": 0.1}}
    config = tiny_zoo.config(tmp_path, merge={"groups": "model", **given})
    space = space_of(tiny_zoo.bunch, config.merge)
    point = Point(space.constant({}), {"epsilon": 0.2})
    assert recipe_of(config, space, point).parameters == {
        "density": {"aligned": 0.5, "math": 0.6, "code": 0.7},
        "epsilon": 0.2,
    }
