"""Trims keep what a stable full sort keeps, whether a sample finds the place or everything must be looked at."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.merging import native, selection
from optimizer.merging.masks import EVERYTHING, NOTHING, Band, magnitudes
from optimizer.merging.selection import largest, nth_largest, ranks
from optimizer.merging.tensors import Inputs
from tests.optimizer.merging.cases import DTYPES


def task_vector(values: torch.Tensor, dtype: torch.dtype = torch.float32) -> Inputs:
    # Sources whose difference is as given, merged in a type.
    return Inputs.of(torch.zeros_like(values), [values], dtype)


def kept(band: Band, inputs: Inputs) -> torch.Tensor:
    return band.keeps(magnitudes(inputs.vector(0), inputs.dtype).flatten())


def sorted_kept(inputs: Inputs, begin: int, end: int, descending: bool) -> torch.Tensor:
    keys = magnitudes(inputs.vector(0), inputs.dtype).flatten()
    expected = torch.zeros(keys.numel(), dtype=torch.bool)
    expected[keys.sort(descending=descending, stable=True).indices[begin:end]] = True
    return expected


def assert_sorted(inputs: Inputs, begin: int, end: int) -> None:
    assert torch.equal(kept(largest(inputs, 0, end), inputs), sorted_kept(inputs, 0, end, descending=True))
    assert torch.equal(kept(ranks(inputs, 0, begin, end), inputs), sorted_kept(inputs, begin, end, descending=False))


VALUES = {
    "normal": lambda n: torch.randn(n, generator=torch.Generator().manual_seed(n)),
    "few values": lambda n: (torch.arange(n) * 7919 % 5 - 2).float(),
    "all equal": lambda n: torch.full((n,), 0.125),
    "all zero": lambda n: torch.zeros(n) * -1,
    "half zero": lambda n: torch.randn(n, generator=torch.Generator().manual_seed(n)) * (torch.arange(n) % 2),
    "ascending": lambda n: torch.arange(n).float() / n,
    "descending": lambda n: -torch.arange(n, 0, -1).float() / n,
    "one outlier": lambda n: torch.full((n,), 1e-6).index_fill(0, torch.tensor([n // 2]), 6e4),
    "tiny": lambda n: torch.arange(n).float() * 2.0**-149,
}


@pytest.mark.parametrize("fast", [True, False], ids=["native", "torch"])
@pytest.mark.parametrize("name", VALUES)
@given(
    count=st.integers(1, 3000),
    dtype=st.sampled_from(DTYPES),
    source=st.sampled_from(DTYPES),
    share=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_selection_is_that_of_a_stable_sort(
    name: str, fast: bool, count: int, dtype: torch.dtype, source: torch.dtype, share: tuple[float, float]
) -> None:
    inputs = task_vector(VALUES[name](count).to(source), dtype)
    begin, end = sorted(int(part * count) for part in share)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_SAMPLE", 32)  # so that 129 elements are already sampled
        patch.setattr(native, "_PART", 500)  # and ties lie in several parts
        if not fast:
            patch.setattr(native, "usable", lambda *_: False)
        assert_sorted(inputs, begin, end)


@pytest.mark.parametrize("count", [4 * selection._SAMPLE, 4 * selection._SAMPLE + 1, (1 << 20) + 1001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_selection_of_real_sizes(count: int, dtype: torch.dtype) -> None:
    assert_sorted(task_vector(VALUES["normal"](count).to(dtype)), count // 3, count // 2)


@pytest.mark.parametrize("keep", [0, 1, 2, 99, 100, 101])
def test_edges_of_what_is_kept(keep: int) -> None:
    inputs = task_vector(VALUES["normal"](100))
    assert int(kept(largest(inputs, 0, keep), inputs).sum()) == min(keep, 100)
    assert (largest(inputs, 0, keep) is EVERYTHING) == (keep >= 100)
    assert (largest(inputs, 0, keep) is NOTHING) == (keep == 0)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    # Every interval that is looked for.
    found: list[tuple[float, float]] = []
    between = native.between

    def watched(base: Any, expert: Any, dtype: Any, floor: float, ceiling: float) -> Any:
        found.append((floor, ceiling))
        return between(base, expert, dtype, floor, ceiling)

    monkeypatch.setattr(native, "between", watched)
    return found


STEP = 8
COUNT = selection._SAMPLE * STEP
SAMPLED = torch.arange(COUNT) % STEP == 0


@pytest.mark.parametrize("sampled_are_larger", [True, False])
@pytest.mark.parametrize("keep", [COUNT // 16, COUNT // 2, COUNT - COUNT // 16])
def test_a_sample_that_misleads_is_noticed(
    sampled_are_larger: bool, keep: int, looks: list[tuple[float, float]]
) -> None:
    # All that is sampled lies on one side of what is not, so that the guess is wrong for ranks of the other side.
    values = torch.rand(COUNT, generator=torch.Generator().manual_seed(0)) + (sampled_are_larger == SAMPLED)
    inputs = task_vector(values)
    assert torch.equal(kept(largest(inputs, 0, keep), inputs), sorted_kept(inputs, 0, keep, descending=True))
    assert looks[-1] == (0.0, float("inf"))


def test_a_good_sample_needs_one_look_at_few(looks: list[tuple[float, float]]) -> None:
    inputs = task_vector(VALUES["normal"](COUNT))
    largest(inputs, 0, COUNT // 2)
    ((floor, ceiling),) = looks
    assert native.usable(inputs.experts[0])
    assert ((inputs.experts[0].abs() >= floor) & (inputs.experts[0].abs() <= ceiling)).float().mean() < 0.1


def test_ranks_of_a_trim_that_keeps_all_but_ends() -> None:
    inputs = task_vector(torch.tensor([3.0, -1.0, 2.0, -2.0, 1.0, 0.0]))
    assert kept(ranks(inputs, 0, 1, 3), inputs).tolist() == [False, True, False, False, True, False]
    assert kept(ranks(inputs, 0, 2, 4), inputs).tolist() == [False, False, True, False, True, False]
    assert kept(ranks(inputs, 0, 4, 9), inputs).tolist() == [True, False, False, True, False, False]
    assert kept(ranks(inputs, 0, 3, 3), inputs).tolist() == [False] * 6


@pytest.mark.parametrize(("n", "expected"), [(1, (3.0, 2)), (2, (2.0, 0)), (3, (2.0, 3)), (4, (1.0, 1))])
def test_nth_largest_by_hand(n: int, expected: tuple[float, int]) -> None:
    assert nth_largest(torch.tensor([2.0, 1.0, 3.0, 2.0]), n) == expected
