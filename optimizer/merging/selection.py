"""Finds the k largest magnitudes of a task vector without sorting it."""

import numpy as np
import numpy.typing as npt
import torch

from optimizer.merging import native
from optimizer.merging.masks import EVERYTHING, NOTHING, Band, magnitudes
from optimizer.merging.tensors import Inputs

_INFINITY = float("inf")

#: Magnitudes looked at to guess where a rank lies, and how many standard deviations the guess leaves on either side.
_SAMPLE, _DEVIATIONS = 1 << 14, 5


def largest(inputs: Inputs, expert: int, keep: int) -> Band:
    """The band that keeps the `keep` largest magnitudes, of ties the first ones.

    That is what a stable descending sort would keep, in two or three reads of the task vector.
    """
    count = inputs.shape.numel()
    if keep >= count:
        return EVERYTHING
    if keep <= 0:
        return NOTHING
    value, cut = _nth_largest(inputs, expert, keep)
    return Band((value, _above(value)), cut)


def ranks(inputs: Inputs, expert: int, begin: int, end: int) -> Band:
    """The band that keeps ranks [begin, end) of a stable ascending sort of the magnitudes."""
    count = inputs.shape.numel()
    end = min(end, count)
    if begin >= end:
        return NOTHING
    floor, floor_cut = (0.0, 0.0), -1
    ceiling, ceiling_cut = (_INFINITY, _INFINITY), -1
    if begin > 0:
        value, floor_cut = _nth_smallest(inputs, expert, begin)
        floor = (_above(value), value)
    if end < count:
        value, ceiling_cut = _nth_smallest(inputs, expert, end)
        ceiling = (value, _below(value))
    return Band(floor, floor_cut, ceiling, ceiling_cut)


def nth_largest(values: torch.Tensor, n: int) -> tuple[float, int]:
    """The n-th largest value from 1, ties in order of position, and the position of that element.

    Args:
        values: flat.
        n: from 1 to their number.
    """
    value = _kth(values, values.numel() - n)
    before = int(torch.count_nonzero(values > value))
    return value, int((values == value).nonzero()[n - before - 1])


def _nth_largest(inputs: Inputs, expert: int, n: int) -> tuple[float, int]:
    pair = (inputs.needed_base.reshape(-1), inputs.experts[expert].reshape(-1))
    if not native.usable(*pair):
        return nth_largest(magnitudes(inputs.vector(expert), inputs.dtype).flatten(), n)
    rank = pair[0].numel() - n
    below, parts = _around(inputs.dtype, pair, rank)
    kept = _sorted(parts)
    value = kept[rank - below]
    larger = pair[0].numel() - below - int(np.searchsorted(kept, value, "right"))
    return float(value), _nth_tie(inputs.dtype, pair, parts, float(value), n - larger)


def _nth_smallest(inputs: Inputs, expert: int, n: int) -> tuple[float, int]:
    pair = (inputs.needed_base.reshape(-1), inputs.experts[expert].reshape(-1))
    if not native.usable(*pair):
        value, index = nth_largest(-magnitudes(inputs.vector(expert), inputs.dtype).flatten(), n)
        return -value, index
    below, parts = _around(inputs.dtype, pair, n - 1)
    kept = _sorted(parts)
    value = kept[n - 1 - below]
    smaller = below + int(np.searchsorted(kept, value, "left"))
    return float(value), _nth_tie(inputs.dtype, pair, parts, float(value), n - smaller)


_Pair = tuple[torch.Tensor, torch.Tensor]
_Parts = list[tuple[int, torch.Tensor]]


def _around(dtype: torch.dtype, pair: _Pair, rank: int) -> tuple[int, _Parts]:
    """The magnitudes near a rank of an ascending sort, from 0: how many are smaller, and they themselves by parts.

    A sample tells within which edges that rank lies almost surely; if it does not, everything is given.
    """
    count = pair[0].numel()
    if count > _SAMPLE * 4:
        drawn = np.sort(native.sample(*pair, dtype, count // _SAMPLE).numpy())
        low, high = _places(len(drawn), rank / count)
        floor = float(drawn[low]) if low >= 0 else 0.0
        ceiling = float(drawn[high]) if high < len(drawn) else _INFINITY
        below, parts = native.between(*pair, dtype, floor, ceiling)
        if below <= rank < below + sum(len(part) for _, part in parts):
            return below, parts
    return native.between(*pair, dtype, 0.0, _INFINITY)


def _places(drawn: int, share: float) -> tuple[int, int]:
    """Places in a sorted sample between which the value lies, almost surely, that a share of all is smaller than.

    Args:
        drawn: size of the sample; the places may lie outside of it.
    """
    middle, spread = share * drawn, _DEVIATIONS * drawn**0.5 / 2
    return int(np.floor(middle - spread)), int(middle + spread) + 1


def _nth_tie(dtype: torch.dtype, pair: _Pair, parts: _Parts, value: float, n: int) -> int:
    """Position of the n-th element from 1 whose magnitude is `value`."""
    for begin, part in parts:
        ties = int(np.count_nonzero(part.numpy() == value))
        if n <= ties:
            return native.nth_equal(*pair, dtype, value, n, begin)
        n -= ties
    raise ValueError(f"there must be {n} more magnitudes of {value}; a source changed while it was read")


def _sorted(parts: _Parts) -> npt.NDArray[np.float32]:
    # numpy's sort is many times faster than torch's, or than a selection in either.
    kept: npt.NDArray[np.float32] = np.concatenate([part.numpy() for _, part in parts])
    kept.sort()
    return kept


def _kth(values: torch.Tensor, k: int) -> float:
    """The k-th smallest value, from 0."""
    count = values.numel()
    if count > _SAMPLE * 4:
        drawn = _in_order(values[:: count // _SAMPLE])
        low, high = _places(len(drawn), k / count)
        floor = drawn[low] if low >= 0 else -_INFINITY
        ceiling = drawn[high] if high < len(drawn) else _INFINITY
        below, inside = int((values < floor).sum()), values[(values >= floor) & (values <= ceiling)]
        if below <= k < below + len(inside):
            return float(_in_order(inside)[k - below])
    return float(_in_order(values)[k])


def _in_order(values: torch.Tensor) -> torch.Tensor:
    # On a CPU numpy's sort is many times faster than torch's.
    return values.sort().values if values.is_cuda else torch.from_numpy(np.sort(values.numpy()))


def _above(value: float) -> float:
    return float(torch.nextafter(torch.tensor(value), torch.tensor(_INFINITY)))


def _below(value: float) -> float:
    return float(torch.nextafter(torch.tensor(value), torch.tensor(-_INFINITY)))
