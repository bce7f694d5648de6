"""Sums of trimmed task vectors, by agreement of signs or plainly: TIES and its kin, each in one pass over memory."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch

from optimizer.merging import native
from optimizer.merging.formulas import LEAST_DIVISOR, Bands, Edges, task_vectors
from optimizer.merging.kernels import Kernel, dot_products, in_rows, write
from optimizer.merging.masks import EVERYTHING, Band, unpacked
from optimizer.merging.tensors import Inputs


@dataclass(frozen=True)
class TaskVectors(Kernel):
    """Base + scale x the sum of weight x trimmed task vector, by agreement of signs or plainly.

    Attributes:
        bands: what is kept of each expert, by magnitude; None for everything, or with `bits`.
        bits: packed masks of each expert, uint8.
        rescale: of each expert's trimmed vector, [experts], float32.
        consensus: whether only the elements are summed whose sign is that of the sum (TIES, arXiv 2306.01708).
        normalize: whether the sum is divided by the sum of the weights that took part.
        scale: of the sum.
    """

    bands: tuple[Band, ...] | None = None
    bits: tuple[torch.Tensor, ...] | None = None
    rescale: torch.Tensor | None = None
    consensus: bool = False
    normalize: bool = False
    scale: float = 1.0
    _constants: dict[Any, torch.Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    def weights(self, coefficients: torch.Tensor) -> torch.Tensor:
        """The coefficients."""
        return coefficients

    def copied(self, weights: torch.Tensor) -> int | None:
        """The base if nothing is added to it; the only expert that is, whole and once."""
        return self._equal(weights.tolist())

    def formula(self, inputs: Inputs, weights: torch.Tensor, first: int) -> torch.Tensor:
        """Experts one after another.

        Args:
            inputs: flat, or rows.
            weights: [experts], or [experts, rows, 1].
            first: as for every kernel.
        """
        return task_vectors(*self._given(inputs, weights, first))

    def write(self, inputs: Inputs, weights: torch.Tensor, first: int, out: torch.Tensor) -> None:
        """In one pass on a GPU, too.

        Args:
            inputs: flat, or rows.
            weights: [experts], or [experts, rows, 1].
            first: as for every kernel.
            out: of the inputs' shape.
        """
        cut, shaped = in_rows(inputs, out)
        write(task_vectors, shaped, self._given(cut, weights, first))

    def _given(self, inputs: Inputs, weights: torch.Tensor, first: int) -> tuple[Any, ...]:
        """What the formula takes."""
        count, device = inputs.shape.numel(), inputs.device
        kept = [unpacked(bits, first, count).view(inputs.shape) for bits in self.bits] if self.bits else None
        scale = self._constant("scale", device, lambda: self.scale)
        of_sums = (self._edges(first, device), kept, self.rescale, scale, self.consensus, self.normalize)
        return inputs.needed_base, inputs.experts, inputs.dtype, weights, *of_sums

    def _edges(self, first: int, device: torch.device) -> Bands | None:
        """Of all bands, as the formula takes them."""
        if not self.bands:
            return None
        bands = self.bands
        least = Edges(
            self._constant("floors", device, lambda: [band.floor for band in bands]),
            self._constant("floor cuts", device, lambda: [band.floor_cut for band in bands]),
        )
        if all(band.ceiling == EVERYTHING.ceiling for band in bands):
            return Bands(least, None, first)
        most = Edges(
            self._constant("ceilings", device, lambda: [band.ceiling for band in bands]),
            self._constant("ceiling cuts", device, lambda: [band.ceiling_cut for band in bands]),
        )
        return Bands(least, most, first)

    def _constant(self, key: Hashable, device: torch.device, made: Callable[[], Any]) -> torch.Tensor:
        """Numbers on a device, sent there once."""
        if (key, device) not in self._constants:
            self._constants[key, device] = torch.tensor(made(), device=device)
        return self._constants[key, device]

    def merge_native(self, inputs: Inputs, weights: torch.Tensor, out: torch.Tensor, first: int) -> bool:
        """All of it."""
        if inputs.native is None:
            return False
        blocks = native.Blocks(weights[None], [out.numel()], first)
        native.task_vectors(inputs.native, self._native, inputs.dtype, blocks, out)
        return True

    def merge_blocks(
        self, inputs: Inputs, coefficients: torch.Tensor, ends: Sequence[int], out: torch.Tensor, first: int = 0
    ) -> torch.Tensor:
        """In one pass, but where a block equals a source."""
        weights = coefficients.float().contiguous()
        flat, target = inputs.flat, out.view(-1)
        copies = any(self._equal(each) is not None for each in weights.tolist())
        if not copies and native.usable(target) and flat.native:
            native.task_vectors(flat.native, self._native, inputs.dtype, native.Blocks(weights, ends, first), target)
        elif not copies and target.is_cuda:
            self.write_rows(inputs, weights.to(out.device, non_blocking=True), ends, first, out)
        else:
            super().merge_blocks(inputs, coefficients, ends, out, first)
        return out

    def write_rows(
        self, inputs: Inputs, weights: torch.Tensor, ends: Sequence[int], first: int, out: torch.Tensor
    ) -> None:
        """Writes all blocks at once, by the formula with weights that differ by row.

        Args:
            inputs: whole rows.
            weights: [blocks, experts], float32, where the sources are.
            ends: index of the element after each block, [blocks].
            first: index of the rows' first element in the whole tensor.
            out: of the inputs' shape.
        """
        rows = inputs.shape[0]
        columns = inputs.shape.numel() // rows

        def owners() -> list[int]:
            counts = [(end - begin) // columns for begin, end in pairwise([0, *ends])]
            return [block for block, count in enumerate(counts) for _ in range(count)]

        each = weights[self._constant(("owners", tuple(ends)), out.device, owners)].T[:, :, None]
        self.write(inputs.map(lambda tensor: tensor.reshape(rows, columns)), each, first, out.view(rows, columns))

    def gradient(
        self, inputs: Inputs, coefficients: torch.Tensor, gradient: torch.Tensor, first: int = 0
    ) -> torch.Tensor:
        """In one pass where there is a kernel for it."""
        found = self._slopes(inputs, coefficients[None], [gradient.numel()], gradient, first)
        return super().gradient(inputs, coefficients, gradient, first) if found is None else found[0]

    def gradient_blocks(
        self, inputs: Inputs, coefficients: torch.Tensor, ends: Sequence[int], gradient: torch.Tensor
    ) -> torch.Tensor:
        """In one pass where there is a kernel for it."""
        found = self._slopes(inputs, coefficients, ends, gradient, 0)
        return super().gradient_blocks(inputs, coefficients, ends, gradient) if found is None else found

    def _slopes(
        self, inputs: Inputs, weights: torch.Tensor, ends: Sequence[int], gradient: torch.Tensor, first: int
    ) -> torch.Tensor | None:
        """The gradient as dot products with what weights multiply, [blocks, experts]; None if there is no kernel."""
        flat, along = inputs.flat, gradient.reshape(-1)
        if native.usable(along) and flat.native:
            blocks = native.Blocks(weights.float().contiguous(), ends, first)
            dots = native.dot_products(flat.native, self._native, inputs.dtype, blocks, along)
        elif self._trimmed or self.consensus:
            return None
        else:
            dots = dot_products(inputs, ends, gradient)
        if self.normalize and not self.consensus:
            weights = weights.to(dots.device)
            totals = weights.sum(1, keepdim=True)
            divided = totals.abs() >= LEAST_DIVISOR
            divisor = torch.where(divided, totals, 1.0)
            dots = (dots - divided * (weights * dots).sum(1, keepdim=True) / divisor) / divisor
        return dots if self.scale == 1.0 else dots * self.scale

    def _equal(self, weights: Sequence[float]) -> int | None:
        used = [i for i, weight in enumerate(weights) if weight != 0.0]
        if not used or self.scale == 0.0:
            return 0
        weight = 1.0 if self.normalize and abs(weights[used[0]]) >= LEAST_DIVISOR else weights[used[0]]
        return used[0] + 1 if len(used) == 1 and weight * self.scale == 1.0 and not self._trimmed else None

    @property
    def _trimmed(self) -> bool:
        return self.bands is not None or self.bits is not None or self.rescale is not None

    @cached_property
    def _native(self) -> native.Trims:
        return native.Trims(self.bands, self.bits, self.rescale, self.consensus, self.normalize, self.scale)
