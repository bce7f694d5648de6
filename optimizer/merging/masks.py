"""Which elements of a task vector are kept: bands of magnitude, or one bit per element."""

from dataclasses import dataclass
from functools import cache

import torch

INFINITY = float("inf")

#: Bit i of a byte, for unpacking eight elements at once.
_BIT = tuple(1 << i for i in range(8))


@dataclass(frozen=True)
class Band:
    """Keeps the elements whose magnitude lies in a band, ties at its edges decided by position.

    A trim to the k largest needs no mask: the k-th magnitude and the index of the last kept tie say the same in a few
    bytes, and cost no memory traffic.

    Attributes:
        floor: least magnitude kept, of elements up to `floor_cut` and after it.
        floor_cut: an index into the flattened tensor.
        ceiling: greatest magnitude kept, of elements up to `ceiling_cut` and after it.
        ceiling_cut: an index into the flattened tensor.
    """

    floor: tuple[float, float]
    floor_cut: int = -1
    ceiling: tuple[float, float] = (INFINITY, INFINITY)
    ceiling_cut: int = -1

    def keeps(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """The band as a mask over all magnitudes, flat."""
        index = torch.arange(magnitudes.numel(), device=magnitudes.device)
        floor, ceiling = (
            torch.where(index > cut, edges[1], edges[0])
            for edges, cut in ((self.floor, self.floor_cut), (self.ceiling, self.ceiling_cut))
        )
        return (magnitudes >= floor) & (magnitudes <= ceiling)


#: Keeps everything, and nothing.
EVERYTHING = Band((0.0, 0.0))
NOTHING = Band((INFINITY, INFINITY), ceiling=(0.0, 0.0))


def magnitudes(vector: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What trims rank by: |vector| as `dtype` holds it, in float32.

    It is rounded by its bits: a compiler for GPUs takes a cast there and back for nothing.
    """
    if dtype == torch.float32:
        return vector.abs()
    dropped = 16 if dtype == torch.bfloat16 else 13
    bits = vector.view(torch.int32) & 0x7FFFFFFF
    up = bits + ((1 << dropped - 1) - 1) + ((bits >> dropped) & 1)  # to the nearest, of two the even one
    rounded = (up >> dropped << dropped).view(torch.float32)
    if dtype == torch.float16:
        rounded = torch.where(rounded >= 2.0**16, INFINITY, rounded)
        # Subnormals are multiples of 2^-24, as the last bit of a number from 1/2 to 1 is.
        rounded = torch.where(vector.abs() < 2.0**-14, (vector.abs() + 0.5) - 0.5, rounded)
    return torch.where(vector.isnan(), torch.nan, rounded)


def packed(keep: torch.Tensor) -> torch.Tensor:
    """A mask as bits: element i is bit i % 8 of byte i // 8.

    Args:
        keep: bool, of any shape.

    Returns:
        uint8, [ceil(elements / 8)].
    """
    flat = torch.nn.functional.pad(keep.flatten(), (0, -keep.numel() % 8)).view(-1, 8)
    return (flat.to(torch.uint8) * _powers(keep.device)).sum(1, dtype=torch.uint8)


def unpacked(bits: torch.Tensor, first: int, count: int) -> torch.Tensor:
    """Elements [first, first + count) of a packed mask, bool."""
    part = bits[first // 8 : (first + count + 7) // 8]
    return (part[:, None] & _powers(bits.device)).ne(0).flatten()[first % 8 :][:count]


@cache
def _powers(device: torch.device) -> torch.Tensor:
    # Sent there once: merges that are recorded must not read what a host holds.
    return torch.tensor(_BIT, dtype=torch.uint8, device=device)
