"""What turns the sources of one tensor into the merged one, in one pass over memory.

A kernel holds what was prepared for one tensor. Its formula is written once, in torch, on float32: that is what runs on
a GPU (compiled), what gradients are taken through, and what the native CPU kernels must equal bit for bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from optimizer.merging import native
from optimizer.merging.formulas import (
    LEAST_DIVISOR,
    compiled,
    plain_divisor,
    row_products,
    sum_of,
    task_vectors,
    weighted_sum,
)
from optimizer.merging.masks import Band, unpacked
from optimizer.merging.tensors import Inputs

#: Elements per step on a CPU: a few float32 buffers of it stay in the second-level cache.
_STEP = 1 << 16


class Kernel(ABC):
    """Merges one tensor, for any coefficients."""

    #: Elements that must stay together: a part of a tensor that is merged alone begins at a multiple of it.
    unit: int = 1

    @abstractmethod
    def weights(self, coefficients: torch.Tensor) -> torch.Tensor:
        """What the formula multiplies by, as a differentiable function.

        Args:
            coefficients: [experts], float64.
        """

    @abstractmethod
    def formula(self, inputs: Inputs, weights: torch.Tensor, first: int) -> torch.Tensor:
        """Merged elements, float32 and flat.

        Args:
            inputs: flat parts of the sources.
            weights: float32.
            first: index of the parts' first element in the whole tensor.
        """

    def copied(self, weights: torch.Tensor) -> int | None:
        """Index, in `Inputs.all`, of the source that the result equals; arithmetic could miss it by a rounding.

        Args:
            weights: float32, as the formula takes them.
        """
        return None

    def merge_native(self, inputs: Inputs, weights: torch.Tensor, out: torch.Tensor, first: int) -> bool:
        """Merges by the native kernels if they can; says whether they did."""
        return False

    def splits(self) -> list[int]:
        """Indices where a step must end."""
        return []

    def merge(self, inputs: Inputs, coefficients: torch.Tensor, out: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Writes the merged tensor.

        Args:
            inputs: the sources, or the same part of each of them.
            coefficients: [experts], float64.
            out: of the sources' shape; what it held is overwritten.
            first: index of the part's first element in the whole tensor, a multiple of `unit`.

        Returns:
            `out`.
        """
        with torch.no_grad():
            single = self.weights(coefficients).float().contiguous()
            if (index := self.copied(single)) is not None:
                return out.copy_(inputs.all[index])
            weights = single.to(inputs.device)
            flat = _flat(inputs)
            target = out.view(-1)
            if not (native.usable(*flat.all, target) and self.merge_native(flat, weights, target, first)):
                for begin, end in self._steps(target.numel(), first, target.device):
                    target[begin:end] = self.formula(_part(flat, begin, end), weights, first + begin)
        return out

    def merge_blocks(
        self, inputs: Inputs, coefficients: torch.Tensor, ends: Sequence[int], out: torch.Tensor, first: int = 0
    ) -> torch.Tensor:
        """Writes a merged tensor of which each block of rows has coefficients of its own.

        Args:
            inputs: the sources, or the same rows of each of them.
            coefficients: [blocks, experts], float64.
            ends: index of the element after each block, [blocks].
            out: of the sources' shape; what it held is overwritten.
            first: index of the rows' first element in the whole tensor.

        Returns:
            `out`.
        """
        flat, target = _flat(inputs), out.view(-1)
        for (begin, end), each in zip(pairwise([0, *ends]), coefficients, strict=True):
            self.merge(_part(flat, begin, end), each, target[begin:end], first + begin)
        return out

    def gradient(
        self, inputs: Inputs, coefficients: torch.Tensor, gradient: torch.Tensor, first: int = 0
    ) -> torch.Tensor:
        """D loss / d coefficients, [experts], float64, where the sources are or on the CPU.

        Args:
            inputs: the sources, or the same part of each of them.
            coefficients: where it is taken, [experts], float64.
            gradient: of the loss by the merged tensor, of the sources' shape.
            first: index of the part's first element in the whole tensor, a multiple of `unit`.
        """
        at = coefficients.detach().clone().requires_grad_()
        weights = self.weights(at)
        if not weights.requires_grad:  # the mean of one model, whatever its share
            return torch.zeros_like(at)
        slopes = self._by_weights(inputs, weights.detach(), gradient, first)
        if weights is at:
            return slopes
        (chained,) = torch.autograd.grad(weights, at, slopes.to(at.device))
        return chained

    def gradient_blocks(
        self, inputs: Inputs, coefficients: torch.Tensor, ends: Sequence[int], gradient: torch.Tensor
    ) -> torch.Tensor:
        """D loss / d coefficients of a tensor of which each block of rows has its own, [blocks, experts], float64.

        Args:
            inputs: the sources.
            coefficients: where it is taken, [blocks, experts], float64.
            ends: index of the element after each block, [blocks].
            gradient: of the loss by the merged tensor, of the sources' shape.
        """
        flat, along = _flat(inputs), gradient.reshape(-1)
        slopes = [
            self.gradient(_part(flat, begin, end), each, along[begin:end], begin)
            for (begin, end), each in zip(pairwise([0, *ends]), coefficients, strict=True)
        ]
        return torch.stack(slopes)

    def _by_weights(self, inputs: Inputs, weights: torch.Tensor, gradient: torch.Tensor, first: int) -> torch.Tensor:
        flat, along = _flat(inputs), gradient.reshape(-1)
        single = weights.to(inputs.device, torch.float32).requires_grad_()
        total = torch.zeros_like(weights)
        for begin, end in self._steps(along.numel(), first, along.device):
            merged = self.formula(_part(flat, begin, end), single, first + begin)
            (part,) = torch.autograd.grad(merged, single, along[begin:end].float())
            total += part.to(total.device, torch.float64)
        return total

    def _steps(self, count: int, first: int, device: torch.device) -> Iterator[tuple[int, int]]:
        step = max(1, _STEP // self.unit) * self.unit if device.type == "cpu" else count
        ends = sorted(
            {*range(step, count, step), *(at - first for at in self.splits() if 0 < at - first < count), count}
        )
        begin = 0
        for end in ends:
            yield begin, end
            begin = end


@dataclass(frozen=True)
class WeightedSum(Kernel):
    """Sum of weight x source, or base + sum of weight x task vector.

    Attributes:
        of: coefficients -> weights: [sources], or [sources, rows, 1], or [sources, 1, columns] for tensors whose last
            dimension has `columns` elements. With `deltas`, sources are the experts alone.
        deltas: whether task vectors are summed.
        normalize: whether the sum is divided by the sum of the weights.
        columns: of weights that differ by row or column; 0 if they do not.
    """

    of: Callable[[torch.Tensor], torch.Tensor]
    deltas: bool = False
    normalize: bool = False
    columns: int = 0

    @property
    def unit(self) -> int:  # type: ignore[override]
        """Whole rows, where weights differ by row."""
        return max(1, self.columns)

    def weights(self, coefficients: torch.Tensor) -> torch.Tensor:
        """From the method."""
        return self.of(coefficients)

    def copied(self, weights: torch.Tensor) -> int | None:
        """The only source with a weight, if that is 1."""
        each = weights.flatten(1) if weights.dim() > 1 else weights[:, None]
        if not bool((each == each[:, :1]).all()):
            return None
        return only(each[:, 0].tolist(), base=self.deltas, normalize=self.normalize and not self.deltas)

    def formula(self, inputs: Inputs, weights: torch.Tensor, first: int) -> torch.Tensor:
        """Sources one after another."""
        shaped, part = inputs, weights
        if self.columns:
            rows, begin = inputs.shape.numel() // self.columns, first // self.columns
            shaped = _map(inputs, lambda tensor: tensor.view(rows, self.columns))
            part = weights[:, begin : begin + rows] if weights.shape[1] > 1 else weights
        base, sources = (shaped.base, shaped.experts) if self.deltas else (None, shaped.all)
        return _fastest(weighted_sum, part)(base, sources, part, self.normalize).reshape(-1)

    def merge_native(self, inputs: Inputs, weights: torch.Tensor, out: torch.Tensor, first: int) -> bool:
        """For one weight per source."""
        if weights.dim() > 1:
            return False
        if self.deltas:
            native.task_vectors(inputs.needed_base, inputs.experts, native.Blocks(weights[None], [out.numel()]), out)
        else:
            divisor = float(sum_of(weights.unbind())) if self.normalize else None
            native.weighted_sum(inputs.all, weights, out, divisor)
        return True

    def _by_weights(self, inputs: Inputs, weights: torch.Tensor, gradient: torch.Tensor, first: int) -> torch.Tensor:
        if weights.dim() > 1:
            return super()._by_weights(inputs, weights, gradient, first)
        base, sources = (inputs.base, inputs.experts) if self.deltas else (None, inputs.all)
        dots = dot_products(base, sources, gradient, [gradient.numel()])[0].to(weights.device)
        if not self.normalize:
            return dots
        return (dots - (weights * dots).sum() / weights.sum()) / weights.sum()


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

    def weights(self, coefficients: torch.Tensor) -> torch.Tensor:
        """The coefficients."""
        return coefficients

    def copied(self, weights: torch.Tensor) -> int | None:
        """The base if nothing is added to it; the only expert that is, whole and once."""
        if self.scale == 0.0:
            return 0
        divisor = float(plain_divisor(weights)) if self.normalize else 1.0
        index = only([weight / divisor * self.scale for weight in weights.tolist()], base=True, normalize=False)
        trimmed = self.bands or self.bits or self.rescale is not None
        return None if trimmed and index != 0 else index

    def splits(self) -> list[int]:
        """Where a band's edges change."""
        return [cut for band in self.bands or () for cut in band.cuts]

    def formula(self, inputs: Inputs, weights: torch.Tensor, first: int) -> torch.Tensor:
        """Experts one after another."""
        count = inputs.shape.numel()
        device = inputs.device
        kept = [unpacked(bits, first, count).view(inputs.shape) for bits in self.bits] if self.bits else None
        edges = torch.tensor([band.at(first) for band in self.bands], device=device) if self.bands else None
        scale = torch.tensor(self.scale, device=device)
        run = _fastest(task_vectors, weights)
        return run(
            inputs.needed_base,
            inputs.experts,
            inputs.dtype,
            weights,
            edges,
            kept,
            self.rescale,
            scale,
            self.consensus,
            self.normalize,
        )

    def merge_native(self, inputs: Inputs, weights: torch.Tensor, out: torch.Tensor, first: int) -> bool:
        """All of it."""
        blocks = native.Blocks(weights[None], [out.numel()], first)
        native.task_vectors(inputs.needed_base, inputs.experts, blocks, out, **self._how(inputs))
        return True

    def merge_blocks(
        self, inputs: Inputs, coefficients: torch.Tensor, ends: Sequence[int], out: torch.Tensor, first: int = 0
    ) -> torch.Tensor:
        """In one pass, but for blocks that equal a source."""
        weights = coefficients.float().contiguous()
        flat, target = _flat(inputs), out.view(-1)
        if any(self.copied(each) is not None for each in weights):
            return super().merge_blocks(flat, coefficients, ends, out, first)
        if native.usable(*flat.all, target):
            how = self._how(inputs)
            native.task_vectors(flat.needed_base, flat.experts, native.Blocks(weights, ends, first), target, **how)
            return out
        if self.bands or out.device.type == "cpu":  # whose edges change in the middle of rows
            return super().merge_blocks(flat, coefficients, ends, out, first)
        out.copy_(self.by_rows(inputs, weights, ends, first).view(out.shape))
        return out

    def by_rows(self, inputs: Inputs, weights: torch.Tensor, ends: Sequence[int], first: int) -> torch.Tensor:
        """Merged elements of all blocks by the formula, whose weights then differ by row, [rows, columns], float32."""
        rows = inputs.shape[0]
        columns = inputs.shape.numel() // rows
        counts = torch.tensor([(end - begin) // columns for begin, end in pairwise([0, *ends])])
        each = weights.repeat_interleave(counts, 0).T[:, :, None].contiguous()
        return self.formula(_map(inputs, lambda tensor: tensor.reshape(rows, columns)), each.to(inputs.device), first)

    def gradient_blocks(
        self, inputs: Inputs, coefficients: torch.Tensor, ends: Sequence[int], gradient: torch.Tensor
    ) -> torch.Tensor:
        """In one pass where there is a kernel for it."""
        found = self._dots(inputs, coefficients, gradient, ends, 0)
        return super().gradient_blocks(inputs, coefficients, ends, gradient) if found is None else found

    def _by_weights(self, inputs: Inputs, weights: torch.Tensor, gradient: torch.Tensor, first: int) -> torch.Tensor:
        found = self._dots(inputs, weights[None], gradient, [gradient.numel()], first)
        return super()._by_weights(inputs, weights, gradient, first) if found is None else found[0]

    def _dots(
        self, inputs: Inputs, weights: torch.Tensor, gradient: torch.Tensor, ends: Sequence[int], first: int
    ) -> torch.Tensor | None:
        """The gradient as dot products with the trimmed vectors, [blocks, experts]; None if there is no kernel."""
        flat, along = _flat(inputs), gradient.reshape(-1)
        if native.usable(*flat.all, along):
            blocks = native.Blocks(weights.float().contiguous(), ends, first)
            dots = native.dot_products(flat.base, flat.experts, along, blocks, **self._how(inputs))
        elif self.bands or self.bits or self.rescale is not None or self.consensus:
            return None
        else:
            dots = dot_products(inputs.base, inputs.experts, gradient, ends)
        if self.normalize and not self.consensus:
            weights = weights.to(dots.device)
            totals = weights.sum(1, keepdim=True)
            divided = totals.abs() >= LEAST_DIVISOR
            divisor = torch.where(divided, totals, 1.0)
            dots = (dots - divided * (weights * dots).sum(1, keepdim=True) / divisor) / divisor
        return dots * self.scale

    def _how(self, inputs: Inputs) -> dict[str, Any]:
        return {
            "dtype": inputs.dtype,
            "bands": self.bands,
            "bits": self.bits,
            "rescale": self.rescale,
            "consensus": self.consensus,
            "normalize": self.normalize,
            "scale": self.scale,
        }


def only(weights: Sequence[float], base: bool, normalize: bool) -> int | None:
    """Index of the one source that a weighted sum equals exactly, if there is one.

    Args:
        weights: of the sources; with `base`, of the task vectors.
        base: whether there is a base beside them, which then is source 0.
        normalize: whether weights are divided by their sum.
    """
    used = [i for i, weight in enumerate(weights) if weight != 0.0]
    if base and not used:
        return 0
    if len(used) == 1 and (normalize or weights[used[0]] == 1.0):
        return used[0] + base
    return None


def dot_products(
    base: torch.Tensor | None, sources: Sequence[torch.Tensor], gradient: torch.Tensor, ends: Sequence[int]
) -> torch.Tensor:
    """<gradient, source - base> of each source, or <gradient, source> without base, [blocks, sources], float64.

    Args:
        base: of the gradient's shape, as the sources are.
        sources: one or more.
        gradient: of any floating type.
        ends: index of the element after each block of rows, [blocks].
    """
    given = [*([] if base is None else [base]), *sources, gradient]
    *flat, along = (tensor.reshape(-1) for tensor in given)
    if native.usable(*flat, along):
        blocks = native.Blocks(torch.zeros(len(ends), len(sources)), ends)
        return native.dot_products(None if base is None else flat[0], flat[base is not None :], along, blocks)
    rows = gradient.shape[0] if gradient.dim() > 1 or len(ends) > 1 else 1
    columns = gradient.numel() // max(1, rows)
    *shaped, along = (tensor.reshape(rows, columns) for tensor in given)
    run = compiled(row_products) if along.is_cuda else row_products
    by_row = run(None if base is None else shaped[0], shaped[base is not None :], along).double()
    if len(ends) == 1:
        return by_row.sum(1)[None]
    counts = [(end - begin) // columns for begin, end in pairwise([0, *ends])]
    return torch.stack([part.sum(1) for part in torch.split(by_row, counts, 1)])


def _fastest(formula: Callable[..., torch.Tensor], weights: torch.Tensor) -> Callable[..., torch.Tensor]:
    return compiled(formula) if weights.is_cuda and not weights.requires_grad else formula


def _map(inputs: Inputs, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
    base = None if inputs.base is None else change(inputs.base)
    return replace(inputs, base=base, experts=tuple(change(expert) for expert in inputs.experts))


def _flat(inputs: Inputs) -> Inputs:
    return _map(inputs, lambda tensor: tensor.reshape(-1))


def _part(inputs: Inputs, begin: int, end: int) -> Inputs:
    return _map(inputs, lambda tensor: tensor[begin:end])
