"""What a GPU merges is what a CPU merges, bit for bit where no sum over a tensor is taken."""

import pytest
import torch

from optimizer.merging.bank import Bank, Residency
from optimizer.merging.methods import METHODS
from optimizer.merging.methods.base import coefficients_of
from optimizer.merging.tensors import Inputs
from optimizer.merging.whole import WholeMerge, as_graph
from tests.optimizer.merging.cases import CASES, Case, each_case, inputs_of, models, same_bits, ulps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

#: Methods whose weights come from norms and angles: a GPU adds these in another order.
SUMMED = ("slerp", "nuslerp", "multislerp", "karcher", "model_stock", "sce")

#: Takes whole elements, by an importance that holds sums: a few on the border may fall on its other side.
PICKED = "arcee_fusion"

#: One whose elements make up rows for the compiler, and one whose do not.
SHAPES = [(131, 523), (96, 512)]

#: Every kernel in bfloat16, some in the other types: each is compiled anew.
TYPED = [(case, torch.bfloat16) for case in CASES] + [
    (case, dtype)
    for case in CASES
    for dtype in (torch.float32, torch.float16)
    if case.method.name in ("ties", "breadcrumbs", "dare_ties", "linear", "slerp")
]


def on_gpu(inputs: Inputs) -> Inputs:
    return inputs.map(lambda tensor: tensor.cuda())


def merged(case: Case, inputs: Inputs, weights: tuple[float, ...] | None = None) -> torch.Tensor:
    target = torch.full(inputs.shape, torch.nan, dtype=inputs.dtype, device=inputs.device)
    return case.merge(inputs, weights, target).cpu()


@pytest.mark.parametrize(("case", "dtype"), TYPED, ids=str)
def test_a_merge_is_the_same_on_a_gpu(case: Case, dtype: torch.dtype) -> None:
    for shape in SHAPES:
        inputs = inputs_of(case, shape, [dtype])
        for weights in (None, (1.0, 0.0, 0.0)[: case.experts]):
            if weights and case.method.name in ("nearswap", "passthrough", "slerp"):
                continue
            there, here = merged(case, on_gpu(inputs), weights), merged(case, inputs, weights)
            if case.method.name == PICKED:
                assert (there != here).float().mean() <= 5e-3
            elif case.method.name in SUMMED:
                assert ulps(there, here, inputs) <= 1
            else:
                assert same_bits(there, here), f"{shape}: {ulps(there, here, inputs)} units in the last place"


@each_case
def test_a_gradient_is_the_same_on_a_gpu(case: Case) -> None:
    inputs = inputs_of(case, (131, 523))
    along = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(1))
    at = coefficients_of(case.coefficients)
    here = case.kernel(inputs).gradient(inputs, at, along)
    there = case.kernel(on_gpu(inputs)).gradient(on_gpu(inputs), at, along.cuda()).cpu()
    close = 0.1 if case.method.name == PICKED else 1e-4
    torch.testing.assert_close(there, here, rtol=close, atol=close)


@pytest.mark.parametrize("case", [one for one in CASES if one.method.name in ("task_arithmetic", "ties", "dare_ties")])
def test_blocks_are_the_same_on_a_gpu(case: Case) -> None:
    inputs = inputs_of(case, (64, 523), [torch.bfloat16])
    weights = torch.tensor([[0.6, 0.3, 0.45], [-0.2, 0.9, 0.1], [0.4, 1.3, -0.7]], dtype=torch.float64)
    ends = [20 * 523, 41 * 523, 64 * 523]
    found = []
    for one in (inputs, on_gpu(inputs)):
        out = torch.empty(inputs.shape, dtype=inputs.dtype, device=one.device)
        found.append(case.kernel(one).merge_blocks(one, weights[:, : case.experts], ends, out).cpu())
    assert same_bits(*found)


@pytest.mark.parametrize("residency", ["device", "host", "disk"])
def test_residencies_give_the_same_bits_on_a_gpu(residency: Residency) -> None:
    base, experts = models(3)
    found = []
    for device in ("cpu", "cuda"):
        given = {"density": 0.4}
        bank = Bank(METHODS["ties"], base, experts, given, residency=residency, device=torch.device(device))
        found.append({name: made.cpu() for name, made in bank.merged(dict.fromkeys(base.shapes, (0.6, 0.3, 0.45)))})
    here, there = found
    assert all(torch.equal(here[name], there[name]) for name in here)


@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "dare_ties", "della", "linear", "multislerp", "sce"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
def test_a_recorded_merge_is_the_same_as_one_by_one(name: str, dtype: torch.dtype | None) -> None:
    base, experts = models(3)
    method = METHODS[name]
    based = None if method.base == "unused" else base
    bank = Bank(method, based, experts, dtype=dtype, device=torch.device("cuda"))
    names = [one for one in base.shapes if one != "steps"]
    live = {one: torch.empty(base.shapes[one], dtype=bank.dtype_of(one), device="cuda") for one in names}
    whole = WholeMerge(bank, live, as_graph)
    for point in [(0.6, 0.3, 0.45), (0.1, -0.2, 0.9), (0.0, 1.0, 0.0), (0.7, 0.7, 0.1), (0.6, 0.3, 0.45)]:
        whole.merge(dict.fromkeys(names, point))
        for one in names:
            assert same_bits(live[one].cpu(), bank.merge(one, point, torch.empty_like(live[one])).cpu())


def test_large_trims_are_the_same_on_a_gpu() -> None:
    case = Case(METHODS["ties"], {"density": 0.3}, True)
    inputs = inputs_of(case, (1031, 2053), [torch.bfloat16])
    assert same_bits(merged(case, on_gpu(inputs)), merged(case, inputs))
