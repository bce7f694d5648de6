"""The registry of methods, what a method refuses, and merges that can be checked by hand."""

import math

import pytest
import torch

from datagen.errors import ConfigError
from optimizer.merging.masks import unpacked
from optimizer.merging.methods import METHODS, Method
from optimizer.merging.methods.base import Value, coefficients_of
from optimizer.merging.tensors import Inputs, common_dtype
from optimizer.registry import Registry

each_method = pytest.mark.parametrize("method", METHODS.values(), ids=lambda method: method.name)


def merged(
    name: str, base: list | None, experts: list, coefficients: list[float], **given: Value | list[float]
) -> torch.Tensor:
    inputs = Inputs.of(
        None if base is None else torch.tensor(base, dtype=torch.float32),
        [torch.tensor(expert, dtype=torch.float32) for expert in experts],
    )
    kernel = METHODS[name].prepare(inputs, METHODS[name].settings(given, len(experts)))
    return kernel.merge(inputs, coefficients_of(coefficients), torch.empty(inputs.shape))


def test_there_are_as_many_methods_as_the_table_says() -> None:
    assert len(METHODS) == 20
    assert all(METHODS[name].name == name for name in METHODS)


def test_two_methods_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="there are two of 'ties'"):
        Registry("merge method", [METHODS["ties"], METHODS["linear"], METHODS["ties"]])


@pytest.mark.parametrize(
    ("name", "meant"), [("tise", "ties"), ("task-arithmetic", "task_arithmetic"), ("lineer", "linear")]
)
def test_an_unknown_method_is_answered_with_a_guess(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"no merge method '{name}'; did you mean '{meant}'.* available: .*nearswap"):
        METHODS[name]


@each_method
def test_every_method_is_described(method: Method) -> None:
    assert method.paper.startswith("https://") and method.summary and method.coefficient.meaning
    assert not method.coefficient.shared or method.experts == (1, 1)


@each_method
def test_defaults_lie_in_the_range_of_a_search(method: Method) -> None:
    for parameter in method.parameters:
        assert parameter.low <= parameter.default <= parameter.high and parameter.meaning
    assert len({parameter.name for parameter in method.parameters}) == len(method.parameters)


@each_method
def test_settings_are_complete_and_typed(method: Method) -> None:
    found = method.settings({}, 3)
    assert list(found) == [parameter.name for parameter in method.parameters]
    for parameter in method.parameters:
        value = found[parameter.name]
        assert value == ((parameter.default,) * 3 if parameter.per_expert else parameter.default)


def test_values_take_the_type_of_the_default() -> None:
    found = METHODS["ties"].settings({"density": 1, "normalize": 0, "lambda": 2}, 2)
    assert found["density"] == (1.0, 1.0) and found["normalize"] is False and isinstance(found["lambda"], float)
    assert METHODS["ties"].settings({"density": [0.3, 1]}, 2)["density"] == (0.3, 1.0)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("ties", {"densty": 0.3}, "ties has no parameter 'densty'; did you mean 'density'"),
        ("slerp", {"density": 0.3}, "slerp has no parameter 'density'; it has none"),
        ("linear", {"density": 0.3}, "it has normalize"),
        ("ties", {"density": [0.3]}, r"density must be one value per expert, 2 in all, but got \[0.3\]"),
        ("ties", {"lambda": [1.0, 1.0]}, r"lambda must be one value, but got \[1.0, 1.0\]"),
    ],
)
def test_wrong_parameters_are_refused(name: str, given: dict[str, Value], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        METHODS[name].settings(given, 2)


@pytest.mark.parametrize(
    ("name", "experts", "base", "said"),
    [
        ("slerp", 2, True, "slerp merges 1 models besides the base, but got 2"),
        ("nuslerp", 1, True, "nuslerp merges 2 models"),
        ("model_stock", 1, True, "model_stock merges 2 or more models"),
        ("ties", 0, True, "ties merges 1 or more models"),
        ("ties", 2, False, "ties needs a base model"),
    ],
)
def test_wrong_numbers_of_models_are_refused(name: str, experts: int, base: bool, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        METHODS[name].check(experts, base)


@each_method
def test_right_numbers_of_models_pass(method: Method) -> None:
    least, most = method.experts
    for experts in {least, most or 9}:
        method.check(experts, method.base == "required")


@pytest.mark.parametrize(("density", "epsilon"), [(0.1, 0.1), (0.9, 0.15)])
def test_probabilities_outside_of_zero_to_one_are_refused(density: float, epsilon: float) -> None:
    with pytest.raises(ConfigError, match=r"must be inside of \(0, 1\).*lower epsilon"):
        merged("della", [0.0] * 4, [[1.0] * 4], [1.0], density=density, epsilon=epsilon)


HALF = math.sqrt(0.5)

BY_HAND = {
    "task arithmetic": (
        lambda: merged("task_arithmetic", [1, 2], [[2, 2], [1, 6]], [0.5, 0.25]),
        [1.5, 3.0],
    ),
    "task arithmetic, divided and scaled": (
        lambda: merged("task_arithmetic", [1, 2], [[2, 2], [1, 6]], [1.5, 0.5], normalize=True, **{"lambda": 2.0}),
        [1 + 2 * 1.5 / 2, 2 + 2 * 2 / 2],
    ),
    "a single expert, divided and scaled": (
        lambda: merged("task_arithmetic", [1, 2], [[2, 2]], [0.5], normalize=True, **{"lambda": 2.0}),
        [3.0, 2.0],
    ),
    "a next to empty weight is not divided by": (
        lambda: merged("task_arithmetic", [0, 0], [[1, 2]], [2.0**-40], normalize=True),
        [2.0**-40, 2.0**-39],
    ),
    # Trimmed to (3, 0, 0, 2) and (-1, 4, 0, 0), of its equal magnitudes the first; signs of the sum are + + . +.
    "ties": (
        lambda: merged("ties", [0] * 4, [[3, -1, 0.5, 2], [-1, 4, 0.25, 1]], [1, 1], density=0.5),
        [3.0, 4.0, 0.0, 2.0],
    ),
    "ties, weighted": (  # the second's -3 outweighs 2, and both agree on the second element: (2 + 6) / (1 + 3)
        lambda: merged("ties", [1, 1], [[3, 3], [0, 3]], [1, 3]),
        [0.0, 3.0],
    ),
    "ties, summed": (
        lambda: merged("ties", [1, 1], [[3, 3], [0, 3]], [1, 3], normalize=False, **{"lambda": 0.5}),
        [1 - 1.5, 1 + 4.0],
    ),
    "ties, rescaled": (lambda: merged("ties", [0, 0], [[3, 1]], [1], density=0.5, rescale=True), [4.0, 0.0]),
    "breadcrumbs": (  # the largest goes, then four of the smallest, so that half is left
        lambda: merged("breadcrumbs", [0] * 10, [[1, -2, 3, -4, 5, -6, 7, 8, 9, 10]], [1], density=0.5, gamma=0.1),
        [0, 0, 0, 0, 5, -6, 7, 8, 9, 0],
    ),
    "linear": (lambda: merged("linear", None, [[1, 2], [3, 8]], [1, 3]), [2.5, 6.5]),
    "linear, summed": (lambda: merged("linear", None, [[1, 2], [3, 8]], [1, 3], normalize=False), [10.0, 26.0]),
    "lm cocktail": (lambda: merged("lm_cocktail", None, [[0], [4]], [math.log(3), 0]), [1.0]),
    "lm cocktail, cooler": (lambda: merged("lm_cocktail", None, [[0], [4]], [math.log(3), 0], temperature=0.5), [0.4]),
    "passthrough": (lambda: merged("passthrough", None, [[1, -2]], [0.5]), [0.5, -1.0]),
    "slerp at a right angle": (lambda: merged("slerp", [1, 0], [[0, 2]], [1 / 3]), [math.cos(math.pi / 6), 1.0]),
    "slerp of parallels": (lambda: merged("slerp", [1, 1], [[3, 3]], [0.25]), [1.5, 1.5]),
    "slerp of opposites": (lambda: merged("slerp", [1, 1], [[-1, -1]], [0.25]), [0.5, 0.5]),
    "slerp from nothing": (lambda: merged("slerp", [0, 0], [[2, 0]], [0.5]), [HALF * 2, 0.0]),
    "nuslerp": (lambda: merged("nuslerp", None, [[1, 0], [0, 2]], [2, 1]), [math.cos(math.pi / 6), 1.0]),
    "nuslerp of task vectors": (lambda: merged("nuslerp", [1, 1], [[2, 1], [1, 2]], [1, 1]), [1 + HALF, 1 + HALF]),
    "nuslerp by rows": (
        lambda: merged("nuslerp", None, [[[1, 0], [1, 1]], [[0, 1], [2, 2]]], [1, 1], nuslerp_flatten=False),
        [[HALF, HALF], [1.5, 1.5]],
    ),
    "nuslerp by columns": (
        lambda: merged(
            "nuslerp", None, [[[1, 1], [0, 1]], [[0, 2], [1, 2]]], [1, 1], nuslerp_flatten=False, nuslerp_row_wise=True
        ),
        [[HALF, 1.5], [HALF, 1.5]],
    ),
    "nuslerp of weights that cancel": (lambda: merged("nuslerp", None, [[1, 0], [0, 1]], [1, -1]), [HALF, HALF]),
    "multislerp": (lambda: merged("multislerp", None, [[1, 0], [0, 3]], [1, 1]), [2 * HALF, 2 * HALF]),
    "multislerp where nothing changed": (lambda: merged("multislerp", [1, 2], [[1, 2]] * 3, [1, 1, 1]), [1.0, 2.0]),
    "karcher": (lambda: merged("karcher", None, [[1, 0], [0, 3]], [1, 1]), [2 * HALF, 2 * HALF]),
    "karcher, weighted": (  # a third of the arc, and the mean length
        lambda: merged("karcher", None, [[1, 0], [0, 1]], [2, 1], max_iter=100),
        [math.cos(math.pi / 6), 0.5],
    ),
    "karcher of nothing": (lambda: merged("karcher", None, [[0, 0], [0, 0]], [1, 1]), [0.0, 0.0]),
    "model stock": (  # cosine sqrt(1/2), step 2c / (1 + c)
        lambda: merged("model_stock", [0, 0], [[1, 0], [1, 1]], [1, 1]),
        [2 * HALF / (1 + HALF), HALF / (1 + HALF)],
    ),
    "model stock at right angles": (lambda: merged("model_stock", [1, 1], [[2, 1], [1, 2]], [1, 1]), [1.0, 1.0]),
    "model stock by rows": (
        lambda: merged("model_stock", [[0, 0], [0, 0]], [[[1, 0], [1, 0]], [[3, 0], [0, 1]]], [1, 1], filter_wise=True),
        [[2.0, 0.0], [0.0, 0.0]],
    ),
    "sce": (lambda: merged("sce", [0, 0], [[2, 1], [-1, 1]], [1, 1]), [2.0, 1.0]),  # the second's -1 is the minority
    "sce, weighted by squares": (  # the first has 4 of the mean squares' 5
        lambda: merged("sce", [0, 0], [[2, 2], [1, 1]], [1, 1]),
        [1.8, 1.8],
    ),
    "sce, selected": (  # one of two elements with variance is kept
        lambda: merged("sce", [0, 0, 0], [[2, 1, 5], [-1, 1, 6]], [1, 1], select_topk=0.5),
        [2.0, 0.0, 0.0],
    ),
    "arcee fusion": (  # quartiles 3, 5 and 7 of the changes: from 11 on
        lambda: merged("arcee_fusion", [0] * 10, [[0.01 * each for each in (1, 2, 3, 4, 5, 6, 7, 8, 9, 100)]], [1]),
        [0.0] * 9 + [1.0],
    ),
    "nearswap": (lambda: merged("nearswap", [0, 0, 1], [[0.5, 2, 1]], [1]), [0.5, 1.0, 1.0]),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_values_by_hand(name: str) -> None:
    made, expected = BY_HAND[name]
    assert torch.allclose(made(), torch.tensor(expected, dtype=torch.float32), rtol=1e-6, atol=1e-7)


def test_directions_that_cancel_are_refused() -> None:
    with pytest.raises(ConfigError, match="must not cancel out"):
        merged("multislerp", None, [[1, 0], [-0.5, math.sqrt(0.75)], [-0.5, -math.sqrt(0.75)]], [1, 1, 1], eps=1e-6)
    assert merged("multislerp", None, [[1, 0], [-1, 0]], [1, 1]).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_dare_keeps_a_share_and_the_sum_of_magnitudes(name: str) -> None:
    vector = torch.rand(100, 100, generator=torch.Generator().manual_seed(0)) - 0.5
    found = merged(name, torch.zeros(100, 100).tolist(), [vector.tolist()], [1.0], density=0.3)
    assert abs(float((found != 0).float().mean()) - 0.3) < 5 * (0.3 * 0.7 / 1e4) ** 0.5
    assert found.abs().sum().item() == pytest.approx(vector.abs().sum().item(), rel=1e-5)
    factors = (found / vector)[found != 0]
    assert torch.allclose(factors, factors[:1], rtol=1e-6)


def test_della_keeps_larger_magnitudes_more_often() -> None:
    rows, columns = 4000, 5
    vector = torch.tensor([[0.5, -0.1, 0.3, -0.4, 0.2]]).repeat(rows, 1)
    inputs = Inputs.of(torch.zeros(rows, columns), [vector])
    kernel = METHODS["della"].prepare(inputs, METHODS["della"].settings({"density": 0.5, "epsilon": 0.2}, 1))
    shares = unpacked(kernel.bits[0], 0, rows * columns).view(rows, columns).float().mean(0)
    assert torch.allclose(shares, torch.tensor([0.7, 0.3, 0.5, 0.6, 0.4]), atol=5 * (0.25 / rows) ** 0.5)


def test_a_type_that_holds_all() -> None:
    assert common_dtype([torch.bfloat16, torch.float16]) == torch.float32
    assert common_dtype([torch.bfloat16]) == torch.bfloat16


@pytest.mark.parametrize("name", ["linear", "multislerp", "karcher", "model_stock"])
def test_coefficients_without_a_mean_are_refused(name: str) -> None:
    method = METHODS[name]
    inputs = Inputs.of(torch.zeros(4) if method.base != "unused" else None, [torch.ones(4), torch.arange(4.0)])
    kernel = method.prepare(inputs, method.settings({}, 2))
    with pytest.raises(ConfigError, match=f"{name}: coefficients must not sum to 0, but are 0.5, -0.5"):
        kernel.merge(inputs, coefficients_of([0.5, -0.5]), torch.empty(4))
