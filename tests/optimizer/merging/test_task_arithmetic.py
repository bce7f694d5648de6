"""End points are exact, values follow the definition, gradients follow finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.bunch import Bunch
from optimizer.merging.space import Space
from optimizer.merging.task_arithmetic import coefficient_gradient, merge_tensor, merged_tensors

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


def sources(shape: tuple[int, ...], dtype: torch.dtype, count: int = 3, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(shape, generator=generator).to(dtype) for _ in range(count)]
    tensors[0].view(-1)[0] = -0.0
    tensors[1].view(-1)[0] = 3e-30 if dtype != torch.float16 else 6e-8
    tensors[-1].view(-1)[0] = -0.0
    return tensors


@given(
    shape=st.lists(st.integers(1, 33), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_end_points_are_bit_equal(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> None:
    base, *experts = sources(shape, dtype, seed=seed)
    out = torch.empty_like(base)
    assert torch.equal(bits(merge_tensor([base, *experts], [0.0, 0.0], out)), bits(base))
    assert torch.equal(bits(merge_tensor([base, *experts], [1.0, 0.0], out)), bits(experts[0]))
    assert torch.equal(bits(merge_tensor([base, *experts], [0.0, 1.0], out)), bits(experts[1]))


def test_value_by_hand() -> None:
    base, one, two = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 2.0]), torch.tensor([1.0, 6.0])
    merged = merge_tensor([base, one, two], [0.5, 0.25], torch.empty(2))
    assert merged.tolist() == [1.5, 3.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_value_is_the_float64_one_rounded_once(dtype: torch.dtype) -> None:
    tensors = sources((64, 48), dtype)
    coefficients = [0.7, -1.3]
    exact = tensors[0].double() + sum(
        c * (t.double() - tensors[0].double()) for c, t in zip(coefficients, tensors[1:], strict=True)
    )
    merged = merge_tensor(tensors, coefficients, torch.empty_like(tensors[0]))
    spacing = torch.finfo(dtype).eps * exact.abs().clamp(min=1.0)
    assert ((merged.double() - exact).abs() <= 4 * spacing if dtype == torch.float32 else spacing).all()


def test_sources_are_left_alone() -> None:
    tensors = sources((5, 7), torch.float32)
    before = [tensor.clone() for tensor in tensors]
    merge_tensor(tensors, [0.3, 0.4], torch.empty(5, 7))
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(tensors, before, strict=True))


def test_gradient_is_that_of_autograd() -> None:
    tensors = sources((6, 5), torch.float32)
    target = torch.randn(6, 5, generator=torch.Generator().manual_seed(9))
    coefficients = torch.tensor([0.4, -0.6], requires_grad=True)
    merged = tensors[0] + sum(c * (t - tensors[0]) for c, t in zip(coefficients, tensors[1:], strict=True))
    loss = ((merged - target) ** 2).sum()
    (expected,) = torch.autograd.grad(loss, coefficients)
    total = torch.zeros(2, dtype=torch.float64)
    coefficient_gradient(tensors, 2 * (merged - target).detach(), total)
    assert torch.allclose(total, expected.double(), rtol=1e-5)


def test_zoo_checkpoints_come_back_bit_equal(bunch: Bunch) -> None:
    space = Space.of(bunch, "module")
    wanted = {"base": {}} | {name: {name: 1.0} for name in space.experts}
    for source in bunch.sources:
        coefficients = space.by_tensor(space.constant(wanted[source.name]))
        for name, tensor in merged_tensors(bunch, coefficients):
            assert torch.equal(bits(tensor), bits(source.tensor(name))), f"{source.name} {name}"


def test_space_maps_arrays_to_parameters_and_back(bunch: Bunch) -> None:
    space = Space.of(bunch, "layer")
    coefficients = np.arange(space.shape[0] * space.shape[1], dtype=float).reshape(space.shape)
    assert np.array_equal(space.from_parameters(space.to_parameters(coefficients)), coefficients)
    assert space.by_tensor(coefficients)["model.layers.0.mlp.up_proj.weight"] == coefficients[:, 1].tolist()
