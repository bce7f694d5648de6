"""What every merge method promises, whatever its settings, the sources' shapes, types and layout in memory."""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.merging import formulas, kernels, native, selection
from optimizer.merging.methods import METHODS
from optimizer.merging.methods.base import coefficients_of
from optimizer.merging.tensors import Inputs
from tests.optimizer.merging.cases import (
    CASES,
    DTYPES,
    Case,
    digest,
    each_case,
    exact,
    inputs_of,
    same_bits,
    ulps,
)

ROOT = Path(__file__).parents[3]

SHAPES = st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple)
TYPES = st.lists(st.sampled_from(DTYPES), min_size=1, max_size=4)
SEEDS = st.integers(0, 99)
WEIGHTS = st.lists(st.floats(0.0625, 1.5, width=32), min_size=3, max_size=3)

few = settings(max_examples=6, deadline=None, derandomize=True)


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape[::-1], dtype=tensor.dtype).permute(*range(tensor.dim())[::-1]).copy_(tensor)


def stepped(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(*tensor.shape[:-1], 2 * tensor.shape[-1], dtype=tensor.dtype)[..., ::2].copy_(tensor)


def changed(inputs: Inputs, changes: Sequence[Callable[[torch.Tensor], torch.Tensor]]) -> Inputs:
    # Each source changed, by the given ways in turn.
    made = [changes[i % len(changes)](tensor) for i, tensor in enumerate(inputs.all)]
    return replace(
        inputs, base=made[0] if inputs.base is not None else None, experts=tuple(made[-len(inputs.experts) :])
    )


@each_case
@given(shape=SHAPES, dtypes=TYPES, out=st.sampled_from(DTYPES), seed=SEEDS, weights=WEIGHTS)
@few
def test_out_is_filled_and_sources_are_left_alone(
    case: Case, shape: tuple[int, ...], dtypes: list[torch.dtype], out: torch.dtype, seed: int, weights: list[float]
) -> None:
    inputs = inputs_of(case, shape, dtypes, seed)
    before = [tensor.clone() for tensor in inputs.all]
    target = torch.full(shape, torch.nan, dtype=out)
    assert case.merge(inputs, weights[: case.experts], target) is target
    assert target.shape == shape and target.dtype == out and target.isfinite().all()
    assert all(same_bits(*pair) for pair in zip(inputs.all, before, strict=True))


@each_case
@given(shape=SHAPES, dtypes=TYPES, seed=SEEDS, layouts=st.permutations([transposed, stepped, torch.clone]))
@few
def test_layout_in_memory_does_not_matter(
    case: Case, shape: tuple[int, ...], dtypes: list[torch.dtype], seed: int, layouts: list
) -> None:
    inputs = inputs_of(case, shape, dtypes, seed)
    assert same_bits(case.merge(changed(inputs, layouts)), case.merge(inputs))


@each_case
@given(shape=SHAPES, dtypes=TYPES, out=st.sampled_from(DTYPES), seed=SEEDS, weights=WEIGHTS)
@few
def test_native_kernels_equal_the_formulas(
    case: Case, shape: tuple[int, ...], dtypes: list[torch.dtype], out: torch.dtype, seed: int, weights: list[float]
) -> None:
    inputs = inputs_of(case, shape, dtypes, seed)
    fast = case.merge(inputs, weights[: case.experts], torch.empty(shape, dtype=out))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "usable", lambda *_: False)
        patch.setattr(kernels, "_STEP", 64)
        assert same_bits(case.merge(inputs, weights[: case.experts], torch.empty(shape, dtype=out)), fast)


@pytest.mark.parametrize("dtypes", [[torch.float32], [torch.bfloat16], [torch.float32, torch.float16]], ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if len(case.settings) > 1], ids=str)
def test_native_kernels_equal_the_formulas_over_many_steps_and_threads(
    case: Case, dtypes: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = inputs_of(case, (131, 523), dtypes)  # more than a step of the formulas
    monkeypatch.setattr(native, "_PER_THREAD", 1 << 14)
    monkeypatch.setattr(selection, "_SAMPLE", 1 << 8)
    fast = case.merge(inputs)
    monkeypatch.setattr(native, "usable", lambda *_: False)
    assert same_bits(case.merge(inputs), fast)


@each_case
@given(
    shape=SHAPES, dtypes=TYPES, seed=SEEDS, cuts=st.lists(st.floats(0, 1), min_size=1, max_size=3), fast=st.booleans()
)
@few
def test_parts_add_up_to_the_whole(
    case: Case, shape: tuple[int, ...], dtypes: list[torch.dtype], seed: int, cuts: list[float], fast: bool
) -> None:
    inputs = inputs_of(case, shape, dtypes, seed)
    kernel, wanted = case.kernel(inputs), coefficients_of(case.coefficients)
    parts = torch.empty(math.prod(shape), dtype=inputs.dtype)
    edges = sorted({0, *(int(cut * len(parts)) // kernel.unit * kernel.unit for cut in cuts), len(parts)})
    with pytest.MonkeyPatch.context() as patch:
        if not fast:
            patch.setattr(native, "usable", lambda *_: False)
        for begin, end in pairwise(edges):
            part = changed(inputs, [lambda tensor, begin=begin, end=end: tensor.reshape(-1)[begin:end]])
            kernel.merge(part, wanted, parts[begin:end], begin)
    assert same_bits(parts.view(shape), case.merge(inputs))


def with_signed_zeros(inputs: Inputs) -> Inputs:
    for i, tensor in enumerate(inputs.all):
        tensor.view(-1)[: 6 : i + 1] = -0.0
        tensor.view(-1)[6 + i] = 1e-7  # beside which a large element of another source loses it
    return inputs


#: Methods whose base is an end point at coefficients of zero, and whose expert is one alone at one.
ARITHMETIC = [name for name, method in METHODS.items() if type(method).__name__ == "TaskVectorMethod"]
TO_BASE = [*ARITHMETIC, "slerp", "arcee_fusion", "nearswap", "sce"]
TO_EXPERT = [*ARITHMETIC, "slerp", "linear", "passthrough", "nuslerp", "multislerp", "karcher"]


@pytest.mark.parametrize("case", [case for case in CASES if case.method.name in TO_BASE], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nothing_of_the_experts_gives_the_base(case: Case, dtype: torch.dtype) -> None:
    inputs = with_signed_zeros(inputs_of(case, (9, 7), [dtype]))
    assert same_bits(case.merge(inputs, [0.0] * case.experts), inputs.needed_base)


@pytest.mark.parametrize("case", [case for case in CASES if case.method.name in TO_EXPERT], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_expert_alone_is_given_back(case: Case, dtype: torch.dtype) -> None:
    whole = {name: 1.0 for name in ("density", "lambda") if name in case.settings}
    case = replace(case, settings=case.settings | whole)
    inputs = with_signed_zeros(inputs_of(case, (9, 7), [dtype]))
    for i, expert in enumerate(inputs.experts):
        alone = [float(i == j) for j in range(case.experts)]
        assert same_bits(case.merge(inputs, alone), expert)


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.experts == (1, None)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_single_model_is_given_back(name: str, dtype: torch.dtype) -> None:
    method = METHODS[name]
    case = Case(method, {}, method.base != "unused")
    inputs = with_signed_zeros(inputs_of(case, (9, 7), [dtype]))
    single = replace(inputs, experts=inputs.experts[:1])
    merged = case.merge(single, [1.0])
    if name == "sce":  # base + task vector, whose sum rounds
        assert ulps(merged, single.experts[0], single) <= 1
    else:
        assert same_bits(merged, single.experts[0])


@each_case
def test_equal_models_merge_to_themselves(case: Case) -> None:
    base = inputs_of(case, (9, 7)).all[0]
    inputs = changed(inputs_of(case, (9, 7)), [lambda _: base])
    unnormalized = case.method.name == "passthrough" or False in case.settings.values()
    scale = sum(case.coefficients) if unnormalized and not case.based and case.method.name != "nuslerp" else 1.0
    assert ulps(case.merge(inputs), base * scale, inputs) <= 2


@pytest.mark.parametrize("case", [case for case in CASES if case.experts > 1], ids=str)
def test_order_of_experts_does_not_matter(case: Case) -> None:
    inputs = inputs_of(case, (37, 53), [torch.float32, torch.bfloat16])
    turned = replace(inputs, experts=inputs.experts[::-1], sources=inputs.sources[::-1])
    assert ulps(case.merge(turned, case.coefficients[::-1]), case.merge(inputs), inputs) <= 4


def test_results_are_the_same_in_processes_of_other_hash_seeds() -> None:
    script = "from tests.optimizer.merging.cases import digest; print(digest())"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in "12"
    ]
    assert [process.communicate()[0].strip() for process in processes] == [digest()] * 2


@pytest.mark.parametrize("what", ["seed", "name", "sources"])
@pytest.mark.parametrize("name", ["dare_linear", "dare_ties", "della_linear", "della"])
def test_random_masks_depend_on_seed_tensor_and_source(name: str, what: str) -> None:
    case = Case(METHODS[name], {"density": 0.5}, True)
    inputs = inputs_of(case, (37, 53))
    other = {"seed": 4, "name": "other.weight", "sources": tuple("xyz")}[what]
    kept, others = (case.kernel(each).bits for each in (inputs, replace(inputs, **{what: other})))
    assert kept and others
    same = [(one == two).float().mean() for one, two in zip(kept, others, strict=True)]
    assert max(same) < 0.05  # bytes of eight elements


@pytest.mark.parametrize("case", [case for case in CASES if case.method.differentiable], ids=str)
def test_gradient_is_that_of_finite_differences(case: Case) -> None:
    inputs = inputs_of(case, (12, 20))
    along = torch.randn(12, 20, generator=torch.Generator().manual_seed(9))
    step = 1e-6 * case.coefficients[0]
    slopes = []
    for i in range(case.experts):
        sides = [[c + sign * step * (i == j) for j, c in enumerate(case.coefficients)] for sign in (1, -1)]
        above, below = ((exact(case, inputs, side) * along).sum() for side in sides)
        slopes.append((above - below) / (2 * step))
    expected = torch.stack(slopes)
    found = case.kernel(inputs).gradient(inputs, coefficients_of(case.coefficients), along)
    assert found.dtype == torch.float64
    assert float((found - expected).norm() / expected.norm()) < 1e-3


@pytest.mark.parametrize("name", ["multislerp", "karcher"])
def test_gradient_by_the_share_of_a_single_model_is_zero(name: str) -> None:
    case = Case(METHODS[name], {}, False)
    inputs = replace(inputs_of(case, (4, 5)), experts=inputs_of(case, (4, 5)).experts[:1])
    assert case.kernel(inputs).gradient(inputs, coefficients_of([0.7]), torch.ones(4, 5)).tolist() == [0.0]


@pytest.mark.parametrize("dtypes", [[torch.float32], [torch.bfloat16, torch.float16]], ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if len(case.settings) > 1 or not case.settings], ids=str)
def test_gradients_of_native_kernels_are_those_of_the_formulas(
    case: Case, dtypes: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = inputs_of(case, (67, 53), dtypes)
    along = torch.randn(67, 53, generator=torch.Generator().manual_seed(9)).to(dtypes[0])
    monkeypatch.setattr(native, "_PER_THREAD", 1 << 10)
    fast = case.kernel(inputs).gradient(inputs, coefficients_of(case.coefficients), along)
    monkeypatch.setattr(kernels, "_STEP", 128)
    monkeypatch.setattr(native, "usable", lambda *_: False)
    slow = case.kernel(inputs).gradient(inputs, coefficients_of(case.coefficients), along)
    assert float((fast - slow).norm() / slow.norm()) < 1e-5


@pytest.mark.parametrize("normalize", [True, False])
def test_a_gradient_where_the_weights_that_agree_cancel_is_that_of_a_plain_sum(normalize: bool) -> None:
    case = Case(METHODS["ties"], {"normalize": normalize}, True)
    # Weights of 1 and -1 agree on the first element (2 - -1), the second is the first expert's alone.
    inputs = Inputs.of(torch.zeros(2), [torch.tensor([2.0, 3.0]), torch.tensor([-1.0, 5.0]), torch.zeros(2)])
    slopes = case.kernel(inputs).gradient(inputs, coefficients_of([1.0, -1.0, 0.5]), torch.tensor([1.0, 10.0]))
    assert slopes.tolist() == ([2.0, -1.0 + 0.0, 0.0] if normalize else [2.0, -1.0 + 50.0, 0.0])


@pytest.mark.parametrize("case", [case for case in CASES if case.method.name in ARITHMETIC], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_blocks_by_row_are_blocks_one_by_one(case: Case, dtype: torch.dtype) -> None:
    # As a GPU merges them.
    inputs = inputs_of(case, (13, 21), [dtype])
    kernel = case.kernel(inputs)
    weights = torch.tensor([[0.6, 0.3, 0.45], [-0.2, 0.9, 0.1], [0.4, 1.3, -0.7]])[:, : case.experts].contiguous()
    ends, out = [4 * 21, 8 * 21, 13 * 21], torch.empty(13, 21, dtype=dtype)
    at_once = torch.empty_like(out)
    kernel.merge_blocks(inputs, weights.double(), ends, out)
    kernel.write_rows(inputs, weights, ends, 0, at_once)
    assert same_bits(at_once, out)


def test_compiled_formulas_equal_eager_ones() -> None:
    case = Case(METHODS["ties"], {}, True)
    inputs = inputs_of(case, (1003,), [torch.bfloat16, torch.float32])
    weights, scale = torch.tensor([0.6, -0.3, 0.45]), torch.tensor(0.7)
    least = formulas.Edges(torch.tensor([[0.001, 0.002]] * 3), torch.tensor([400, -1, 1003]))
    most = formulas.Edges(torch.tensor([[0.008, 0.007]] * 3), torch.tensor([700, 5, 9]))
    for consensus, bands in ((True, formulas.Bands(least, most, 0)), (False, formulas.Bands(least, None, 7))):
        banded = (
            inputs.base,
            inputs.experts,
            inputs.dtype,
            weights,
            bands,
            None,
            None,
            scale,
            consensus,
            True,
        )
        for dtype in DTYPES:  # rounded by the same kernel
            out = torch.empty(inputs.shape, dtype=dtype)
            formulas.written(formulas.task_vectors)(out, *banded)
            assert same_bits(out, formulas.task_vectors(*banded).to(dtype))
    summed = (None, inputs.experts, weights, False)
    # The compiler's addcmul rounds twice on a CPU, where none of this is used, and once on a GPU.
    assert ulps(formulas.compiled(formulas.weighted_sum)(*summed), formulas.weighted_sum(*summed), inputs) <= 2
