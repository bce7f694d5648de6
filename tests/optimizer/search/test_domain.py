"""What trials are made of, by hand."""

import numpy as np

from optimizer.merging.methods import METHODS
from optimizer.merging.space import Space
from optimizer.search.domain import Domain, Point, numbers_of

SPACE = Space.named(["math", "code"], ["model.layers.0.mlp.up_proj.weight", "lm_head.weight"], "layer")
AT = np.array([[0.1, 0.2], [0.3, 0.4]])
NAMES = ("math/layer 0", "math/head", "code/layer 0", "code/head")


def test_a_box() -> None:
    domain = Domain.box(SPACE, (-1, 2), {"density": (0.2, 0.9)}, {"density": 0.5, "lambda": 1.0})
    assert domain.ends == dict.fromkeys(NAMES, (-1, 2)) | {"density": (0.2, 0.9)}
    assert domain.parameters(AT) == dict(zip(NAMES, (0.1, 0.2, 0.3, 0.4), strict=True)) | {"density": 0.5}
    point = domain.point(domain.parameters(AT))
    assert np.array_equal(point.coefficients, AT)
    assert point.settings == {"density": 0.5}
    assert {name: (one.low, one.high) for name, one in domain.ranges.items()} == domain.ends


def test_around_a_point() -> None:
    domain = Domain.around(SPACE, Point(AT, {"density": 0.3}), 0.25, {"density": (0.2, 0.9)})
    assert domain.ends["code/head"] == (0.4 - 0.25, 0.4 + 0.25)
    assert domain.parameters(AT)["density"] == 0.3


def test_numbers_are_those_of_all_experts_at_once() -> None:
    defaults = {"normalize": 1.0, "rescale": 1.0, "lambda": 1.0}
    assert numbers_of(METHODS["della"], {"density": [0.5, 0.6], "epsilon": 0.1}) == defaults | {"epsilon": 0.1}
    both = defaults | {"density": 0.5, "epsilon": 0.15}
    assert numbers_of(METHODS["della"], {"density": [0.5, 0.5]}) == both
