import numpy as np
import pytest

from optimizer.bunch import Bunch
from optimizer.config import Config
from optimizer.merging.space import Space
from optimizer.run import recipe_of
from tests.support import grouped


@pytest.mark.parametrize("groups", ["model", "anchors", "layer", "module", "tensor", "block"])
def test_a_recipe_has_the_coefficients_that_were_searched(config: Config, bunch: Bunch, groups: str) -> None:
    space = Space.of(bunch, groups)
    coefficients = np.random.default_rng(0).normal(size=space.shape)
    resolved = recipe_of(grouped(config, groups), space, coefficients).resolve(bunch.names)
    wanted = space.by_tensor(coefficients)
    assert {name: np.array(one.coefficients).tolist() for name, one in resolved.items()} == wanted
