"""Coefficients as an array, by tensor and as the parameters of a study."""

import numpy as np

from optimizer.merging.space import Space

SPACE = Space(("math", "code"), {"embeddings": ["embed"], "layer 0": ["q", "k"], "head": ["head"]})


def test_space_maps_arrays_to_parameters_and_back() -> None:
    coefficients = np.arange(6, dtype=float).reshape(SPACE.shape)
    parameters = SPACE.to_parameters(coefficients)
    assert parameters["math/layer 0"] == 1.0 and parameters["code/head"] == 5.0
    assert np.array_equal(SPACE.from_parameters(parameters), coefficients)


def test_every_tensor_has_the_column_of_its_group() -> None:
    coefficients = np.arange(6, dtype=float).reshape(SPACE.shape)
    assert SPACE.by_tensor(coefficients) == {"embed": [0, 3], "q": [1, 4], "k": [1, 4], "head": [2, 5]}


def test_experts_not_named_get_zero() -> None:
    assert SPACE.constant({"code": 0.5}).tolist() == [[0, 0, 0], [0.5, 0.5, 0.5]]
