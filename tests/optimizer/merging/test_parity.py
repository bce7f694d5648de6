"""The same numbers as mergekit, which is what users compare with and export to."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from optimizer.merging.masks import magnitudes, unpacked
from optimizer.merging.methods import METHODS
from optimizer.merging.methods.base import Value
from tests.optimizer.merging.cases import CASES, Case, inputs_of, mergekit, same_bits, ulps

SHAPE = (37, 53)

#: Methods whose weights come from sums over all elements: norms, angles, mean squares.
SUMMING = "slerp nuslerp multislerp karcher model_stock sce".split()

#: mergekit has no coefficient here, which is the same as one for every expert.
WITHOUT_COEFFICIENT = "karcher model_stock sce arcee_fusion".split()

COEFFICIENTS = (0.5, 0.3, 0.2, -0.1, 0.7, 0.4, 0.15)

Options = dict[str, Value | list[float]]


@pytest.fixture(scope="session", autouse=True)
def imported() -> None:
    # mergekit, whose import takes seconds that no single test should be charged with.
    import mergekit.merge_methods  # noqa: F401


def case_of(name: str, settings: Options, based: bool | None = None) -> Case:
    return Case(METHODS[name], settings, METHODS[name].base == "required" if based is None else based)


def rescales(case: Case) -> bool:
    return "density" in case.settings and bool(case.method.settings(case.settings, 3).get("rescale"))


def coefficients_for(case: Case) -> list[float]:
    return [1.0] * case.experts if case.method.name in WITHOUT_COEFFICIENT else list(case.coefficients)


ELEMENTWISE = [
    *(("task_arithmetic", {}), ("task_arithmetic", {"normalize": True, "lambda": 0.7})),
    *(("ties", {"density": density}) for density in (1.0, 0.4, 0.001, 0.0)),
    *(("ties", {"density": 0.4, "normalize": normalize, "lambda": 1.3}) for normalize in (True, False)),
    *(("breadcrumbs", {"density": density, "gamma": gamma}) for density, gamma in ((0.5, 0.05), (0.9, 0.2), (0.3, 0))),
    *(("breadcrumbs_ties", {"density": 0.5, "gamma": gamma, "normalize": True}) for gamma in (0.01, 0.3)),
    *(("linear", {"normalize": normalize}) for normalize in (True, False)),
    *(("lm_cocktail", {"temperature": temperature}) for temperature in (1.0, 0.3)),
    *(("dare_linear", {"density": 0.4, "rescale": False}), ("dare_ties", {"density": 0.4, "rescale": False})),
    *(("della_linear", {"density": 0.4, "rescale": False}), ("della", {"density": 0.4, "rescale": False})),
]


@pytest.mark.parametrize("experts", [1, 2, 3])
@pytest.mark.parametrize(("name", "settings"), ELEMENTWISE, ids=str)
def test_elementwise_methods_are_bit_equal(name: str, settings: Options, experts: int) -> None:
    case = case_of(name, settings)
    inputs = inputs_of(case, SHAPE)
    inputs = replace(inputs, experts=inputs.experts[:experts])
    used = COEFFICIENTS[:experts]
    assert same_bits(case.merge(inputs, used), mergekit(case, inputs, used))


@pytest.mark.parametrize(
    ("name", "coefficient"), [("passthrough", 0.7), ("arcee_fusion", 1.0), ("slerp", 0.0), ("nearswap", 0.0)]
)
def test_methods_of_one_expert_are_bit_equal(name: str, coefficient: float) -> None:
    case = case_of(name, {})
    inputs = inputs_of(case, SHAPE)
    assert same_bits(case.merge(inputs, [coefficient]), mergekit(case, inputs, [coefficient]))


@pytest.mark.parametrize(
    "settings",
    [
        {"density": [0.3, 0.8, 1.0]},
        {"density": [0.0, 0.5, 1.0]},
        {"density": [0.3, 0.9, 1.0], "epsilon": [0.1, 0.05, 0.15]},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["ties", "dare_ties", "della"])
def test_every_expert_has_its_own_density(name: str, settings: Options) -> None:
    own = {key: value for key, value in settings.items() if key in METHODS[name].settings({}, 3)}
    case = case_of(name, own | {"rescale": False})
    inputs = inputs_of(case, SHAPE)
    assert same_bits(case.merge(inputs, COEFFICIENTS[:3]), mergekit(case, inputs, COEFFICIENTS[:3]))


@pytest.mark.parametrize(("name", "settings"), ELEMENTWISE, ids=str)
def test_seven_experts_are_within_an_ulp(name: str, settings: Options) -> None:
    # torch adds so many in another order, and as many weights that the sum is divided by.
    case = case_of(name, settings)
    inputs = inputs_of(case, SHAPE)
    others = inputs_of(case, SHAPE, seed=1).experts + inputs_of(case, SHAPE, seed=2).experts
    inputs = replace(inputs, experts=(*inputs.experts, *others)[:7], sources=tuple("abcdefg"))
    limit = 2 if settings.get("normalize") else 1
    assert ulps(case.merge(inputs, COEFFICIENTS), mergekit(case, inputs, COEFFICIENTS), inputs) <= limit


FLAGS = [
    *(("slerp", {}, None),),
    *(
        ("nuslerp", {"nuslerp_flatten": flatten, "nuslerp_row_wise": row_wise}, based)
        for flatten, row_wise, based in product((True, False), repeat=3)
    ),
    *(("multislerp", {"normalize_weights": flag}, based) for flag, based in product((True, False), repeat=2)),
    *(("karcher", {"max_iter": steps}, None) for steps in (1, 10, 100)),
    *(("model_stock", {"filter_wise": flag}, None) for flag in (True, False)),
    *(("sce", {"select_topk": share}, None) for share in (1.0, 0.5, 0.01)),
    *((name, {"density": 0.4, "rescale": True}, None) for name in ("ties", "breadcrumbs", "dare_linear", "dare_ties")),
    *((name, {"density": 0.4, "rescale": True}, None) for name in ("breadcrumbs_ties", "della_linear", "della")),
    *(("nearswap", {}, None),),
]


@pytest.mark.parametrize("shape", [(37, 53), (211,), (5, 6, 7)], ids=str)
@pytest.mark.parametrize(("name", "settings", "based"), FLAGS, ids=str)
def test_norms_and_angles_are_those_of_mergekit_in_float64(
    name: str, settings: Options, based: bool | None, shape: tuple[int, ...]
) -> None:
    # mergekit's own norms in float32 are several units off, so that its float64 tells who is right.
    #
    # Of the largest element of the tensor we are within one unit in the last place. At elements near zero the terms of
    # the sum are larger than what they add up to, and each of three or more has its rounding and that of its float32
    # weight: there float32 cannot do better than a few units of the element's own largest source.
    if name.startswith("della") and len(shape) > 2:
        pytest.skip("mergekit takes the second dimension for rows")
    case = case_of(name, settings, based)
    inputs = inputs_of(case, shape)
    used = coefficients_for(case)
    found, exact = case.merge(inputs, used), mergekit(case, inputs, used, torch.float64)
    unit = 2.0 ** int(torch.stack(inputs.all).abs().max().log2().floor()) * 2**-23
    assert float((found - exact).abs().max()) <= unit
    assert ulps(found, exact, inputs) <= 5
    assert ulps(found, mergekit(case, inputs, used), inputs) <= 12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_16_bit_sources_merged_in_float32(case: Case, dtype: torch.dtype) -> None:
    # mergekit's `dtype: float32` with `out_dtype`: one unit where an ulp of float32 decides the rounding.
    inputs = replace(inputs_of(case, SHAPE, [dtype]), dtype=torch.float32)
    used = coefficients_for(case)
    found = case.merge(inputs, used, torch.empty(SHAPE, dtype=dtype))
    expected = mergekit(case, inputs, used, torch.float32).to(dtype)
    assert ulps(found, expected, inputs) <= 1
    sums = case.method.name in SUMMING or case.method.name == "nearswap" or rescales(case)
    assert (found != expected).sum() <= (4 if sums else 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", ["ties", "breadcrumbs", "breadcrumbs_ties"])
def test_trims_rank_in_the_dtype_merged_in(
    name: str, density: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 16-bit magnitudes have many ties, and mergekit takes those that its sort, stable only here, puts first.
    from mergekit import sparsify

    masks: list[torch.Tensor] = []
    rescaled = sparsify.rescaled_masked_tensor
    monkeypatch.setattr(
        sparsify, "rescaled_masked_tensor", lambda x, mask, norm: masks.append(mask.bool()) or rescaled(x, mask, norm)
    )
    case = case_of(name, {"density": density})
    inputs = inputs_of(case, SHAPE, [dtype])
    mergekit(case, inputs)
    bands = case.kernel(inputs).bands
    keys = [magnitudes(inputs.vector(i), dtype).flatten() for i in range(3)]
    found = [band.keeps(key) for band, key in zip(bands, keys, strict=True)]
    assert all(torch.equal(one, two.flatten()) for one, two in zip(found, masks, strict=True))
    assert dtype == torch.float32 or any(key.unique().numel() < 0.8 * key.numel() for key in keys)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sce_selects_what_mergekit_selects(dtype: torch.dtype) -> None:
    from mergekit.merge_methods.sce import sce_mask

    case = case_of("sce", {"select_topk": 0.3})
    inputs = replace(inputs_of(case, SHAPE, [dtype]), dtype=torch.float32)
    vectors = torch.stack([inputs.vector(i) for i in range(3)])
    kept = unpacked(case.kernel(inputs).bits, 0, vectors[0].numel())
    variance = vectors.var(0, unbiased=False).flatten()
    differing = kept != sce_mask(vectors, 0.3, torch.float32).flatten().bool()
    assert (variance[differing] == variance[kept].min()).all()  # but for ties, which its topk takes anywhere
