"""Which elements of a task vector are kept: bands of magnitude, or one bit per element."""

from dataclasses import dataclass
from functools import cache

import torch

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
    ceiling: tuple[float, float] = (float("inf"), float("inf"))
    ceiling_cut: int = -1

    def at(self, index: int) -> tuple[float, float]:
        """Floor and ceiling at an index."""
        return self.floor[index > self.floor_cut], self.ceiling[index > self.ceiling_cut]

    def keeps(self, magnitudes: torch.Tensor) -> torch.Tensor:
        """The band as a mask over all magnitudes, flat."""
        index = torch.arange(magnitudes.numel(), device=magnitudes.device)
        floor, ceiling = (
            torch.where(index > cut, edges[1], edges[0])
            for edges, cut in ((self.floor, self.floor_cut), (self.ceiling, self.ceiling_cut))
        )
        return (magnitudes >= floor) & (magnitudes <= ceiling)

    @property
    def cuts(self) -> tuple[int, int]:
        """First indices with other edges than the one before."""
        return self.floor_cut + 1, self.ceiling_cut + 1


#: Keeps everything, and nothing.
EVERYTHING = Band((0.0, 0.0))
NOTHING = Band((float("inf"), float("inf")), ceiling=(0.0, 0.0))


def magnitudes(vector: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What trims rank by: |vector| as `dtype` holds it, in float32."""
    return (vector if dtype == torch.float32 else vector.to(dtype).float()).abs()


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
