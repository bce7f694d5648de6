"""Bands and bits: what they keep, by hand and against each other."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optimizer.merging.masks import EVERYTHING, NOTHING, Band, magnitudes, packed, unpacked

INFINITY = float("inf")
KEYS = torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("band", "expected"),
    [
        (EVERYTHING, [0, 1, 2, 3, 4, 5]),
        (NOTHING, []),
        (Band((2.0, 2.0)), [1, 2, 3, 5]),
        (Band((2.0, 2.5), floor_cut=1), [1, 2]),
        (Band((2.0, 2.5), floor_cut=3), [1, 2, 3]),
        (Band((0.0, 0.0), ceiling=(2.0, 1.5), ceiling_cut=3), [0, 1, 3, 4]),
        (Band((1.5, 1.0), 1, (2.0, 1.0), 3), [1, 3, 4]),
    ],
)
def test_bands_by_hand(band: Band, expected: list[int]) -> None:
    assert band.keeps(KEYS).nonzero().flatten().tolist() == expected


def test_everything_is_kept_but_what_is_not_a_number() -> None:
    assert EVERYTHING.keeps(torch.tensor([0.0, 1e-45, INFINITY])).all()
    assert not NOTHING.keeps(torch.tensor([0.0, 1.0, INFINITY])).any()


def test_bits_by_hand() -> None:
    keep = torch.tensor([True, False, False, True, False, False, False, True, False, True])
    assert packed(keep).tolist() == [0b10001001, 0b10]
    assert packed(keep).dtype == torch.uint8


@given(keep=st.lists(st.booleans(), max_size=70), first=st.integers(0, 70), count=st.integers(0, 70))
def test_bits_come_back_from_any_element_on(keep: list[bool], first: int, count: int) -> None:
    bits = packed(torch.tensor(keep, dtype=torch.bool))
    assert len(bits) == -(-len(keep) // 8)
    first = min(first, len(keep))
    count = min(count, len(keep) - first)
    assert unpacked(bits, first, count).tolist() == keep[first : first + count]


def test_masks_of_any_shape_are_packed_flat() -> None:
    keep = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0)) < 0.5
    assert torch.equal(unpacked(packed(keep), 0, 105).view(3, 5, 7), keep)
    assert torch.equal(packed(keep.transpose(0, 2)), packed(keep.transpose(0, 2).contiguous()))


def test_magnitudes_are_rounded_to_the_type() -> None:
    vector = torch.tensor([-1.0, 1 + 2.0**-8, 1 + 2.0**-11, 1e-10])
    assert magnitudes(vector, torch.float32).tolist() == vector.abs().tolist()
    assert magnitudes(vector, torch.bfloat16).tolist() == [1.0, 1.0, 1.0, vector[3].bfloat16().item()]
    assert magnitudes(vector, torch.float16).tolist() == [1.0, 1 + 2.0**-8, 1.0, 0.0]
    assert magnitudes(vector, torch.bfloat16).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("first", [0, 1234])
def test_magnitudes_are_those_of_casts(dtype: torch.dtype, first: int) -> None:
    # All bits that a float32 can have lie a few thousand apart in these; halves and ties are among them.
    bits = (torch.arange(-(2**31), 2**31, 4093, dtype=torch.int64) + first).clamp(max=2**31 - 1).int()
    vector = torch.cat([bits, (bits >> 12) << 12]).view(torch.float32)
    expected = vector.to(dtype).float().abs()
    torch.testing.assert_close(magnitudes(vector, dtype), expected, rtol=0, atol=0, equal_nan=True)
