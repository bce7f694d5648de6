"""What turns the sources of one tensor into the merged one, in one pass over memory.

A kernel holds what was prepared for one tensor. Its formula is written once, in torch, on float32: that is what runs on
a GPU (compiled), what gradients are taken through, and what the native CPU kernels must equal bit for bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from optimizer.merging import native
from optimizer.merging.formulas import compiled, products, row_products, sum_of, weighted_sum, written
from optimizer.merging.tensors import Inputs

#: Elements whose formula is differentiated at once on a GPU: some ten float32 buffers of it are held.
_DIFFERENTIATED = 1 << 24

#: Elements of the rows that a GPU takes flat tensors in.
_ROW = 1024

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
        """Merges by the native kernels if they can; says whether they did.

        Args:
            inputs: flat parts of the sources, `native` ones.
            weights: float32.
            out: flat.
            first: index of the parts' first element in the whole tensor.
        """
        return False

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
            # A few bytes, which the driver takes at once: nothing waits for what the GPU still does.
            self.run(inputs, single.to(inputs.device, non_blocking=True), out, first)
        return out

    def run(self, inputs: Inputs, weights: torch.Tensor, out: torch.Tensor, first: int = 0) -> None:
        """Writes the merged tensor for weights that lie where the sources do; all of `merge` but what a host decides.

        Args:
            inputs: the sources, or the same part of each of them.
            weights: float32.
            out: of the sources' shape; what it held is overwritten.
            first: index of the part's first element in the whole tensor, a multiple of `unit`.
        """
        flat, target = inputs.flat, out.view(-1)
        if native.usable(target) and self.merge_native(flat, weights, target, first):
            return
        for begin, end in self._steps(target.numel(), target.device):
            self.write(flat.part(begin, end), weights, first + begin, target[begin:end])

    def write(self, inputs: Inputs, weights: torch.Tensor, first: int, out: torch.Tensor) -> None:
        """Writes what the formula gives.

        Args:
            inputs: flat parts of the sources.
            weights: float32.
            first: index of the parts' first element in the whole tensor.
            out: flat.
        """
        out.copy_(self.formula(inputs, weights, first))

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
        flat, target = inputs.flat, out.view(-1)
        for (begin, end), each in zip(pairwise([0, *ends]), coefficients, strict=True):
            self.merge(flat.part(begin, end), each, target[begin:end], first + begin)
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
        flat, along = inputs.flat, gradient.reshape(-1)
        slopes = [
            self.gradient(flat.part(begin, end), each, along[begin:end], begin)
            for (begin, end), each in zip(pairwise([0, *ends]), coefficients, strict=True)
        ]
        return torch.stack(slopes)

    def _by_weights(self, inputs: Inputs, weights: torch.Tensor, gradient: torch.Tensor, first: int) -> torch.Tensor:
        flat, along = inputs.flat, gradient.reshape(-1)
        single = weights.to(inputs.device, torch.float32).requires_grad_()
        total = torch.zeros(weights.shape, dtype=torch.float64, device=inputs.device)
        for begin, end in self._steps(along.numel(), along.device, _DIFFERENTIATED):
            merged = self.formula(flat.part(begin, end), single, first + begin)
            (part,) = torch.autograd.grad(merged, single, along[begin:end].float())
            total += part.double()
        return total

    def _steps(self, count: int, device: torch.device, most: int = 0) -> Iterator[tuple[int, int]]:
        """Parts of a tensor that are worked on one after another.

        Args:
            most: elements of a part on a GPU; 0 for all.
        """
        wanted = _STEP if device.type == "cpu" else most or count
        step = max(1, wanted // self.unit) * self.unit
        yield from ((begin, min(count, begin + step)) for begin in range(0, count, step))


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
        return weighted_sum(*self._given(inputs, weights, first)).reshape(-1)

    def write(self, inputs: Inputs, weights: torch.Tensor, first: int, out: torch.Tensor) -> None:
        """In one pass on a GPU, too."""
        cut, shaped = (inputs, out.view(-1, self.columns)) if self.columns else in_rows(inputs, out)
        write(weighted_sum, shaped, self._given(cut, weights, first))

    def _given(self, inputs: Inputs, weights: torch.Tensor, first: int) -> tuple[Any, ...]:
        """What the formula takes."""
        shaped, part = self._summed(inputs), weights
        if self.columns:
            rows, begin = inputs.shape.numel() // self.columns, first // self.columns
            shaped = shaped.map(lambda tensor: tensor.view(rows, self.columns))
            part = weights[:, begin : begin + rows] if weights.shape[1] > 1 else weights
        return shaped.base, shaped.experts, part, self.normalize

    def merge_native(self, inputs: Inputs, weights: torch.Tensor, out: torch.Tensor, first: int) -> bool:
        """For one weight per source."""
        sources = self._summed(inputs).native
        if weights.dim() > 1 or sources is None:
            return False
        if self.deltas:
            blocks = native.Blocks(weights[None], [out.numel()])
            native.task_vectors(sources, native.PLAIN, inputs.dtype, blocks, out)
        else:
            native.weighted_sum(sources, weights, out, float(sum_of(weights.unbind())) if self.normalize else None)
        return True

    def _by_weights(self, inputs: Inputs, weights: torch.Tensor, gradient: torch.Tensor, first: int) -> torch.Tensor:
        if weights.dim() > 1:
            return super()._by_weights(inputs, weights, gradient, first)
        dots = dot_products(self._summed(inputs), [gradient.numel()], gradient)[0]
        if not self.normalize:
            return dots
        weights = weights.to(dots.device)
        return (dots - (weights * dots).sum() / weights.sum()) / weights.sum()

    def _summed(self, inputs: Inputs) -> Inputs:
        return inputs if self.deltas else inputs.alike


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


def dot_products(inputs: Inputs, ends: Sequence[int], gradient: torch.Tensor) -> torch.Tensor:
    """<gradient, expert - base> of each expert, or <gradient, expert> without base, [blocks, experts], float64.

    Args:
        inputs: of the gradient's shape.
        ends: index of the element after each block of rows, [blocks].
        gradient: of any floating type.
    """
    along = gradient.reshape(-1)
    if native.usable(along) and inputs.flat.native:
        blocks = native.Blocks(torch.zeros(len(ends), len(inputs.experts)), ends)
        return native.dot_products(inputs.flat.native, native.PLAIN, inputs.dtype, blocks, along)
    rows = gradient.shape[0] if gradient.dim() > 1 or len(ends) > 1 else 1
    columns = gradient.numel() // max(1, rows)
    shaped = inputs.map(lambda tensor: tensor.reshape(rows, columns))
    given = (shaped.base, shaped.experts, gradient.reshape(rows, columns))
    if len(ends) == 1:
        return (compiled(products) if along.is_cuda else products)(*given)
    by_row = (compiled(row_products) if along.is_cuda else row_products)(*given)
    counts = [(end - begin) // columns for begin, end in pairwise([0, *ends])]
    return torch.stack([part.sum(1) for part in torch.split(by_row, counts, 1)])


def in_rows(inputs: Inputs, out: torch.Tensor) -> tuple[Inputs, torch.Tensor]:
    """Flat tensors as rows of one length, if they can be cut so: compiled for that length, each load takes 16 bytes."""
    if not out.is_cuda or out.dim() > 1 or out.numel() % _ROW:
        return inputs, out
    return inputs.map(_row_by_row), _row_by_row(out)


def _row_by_row(tensor: torch.Tensor) -> torch.Tensor:
    rows = tensor.view(-1, _ROW)
    torch._dynamo.mark_static(rows, 1)
    return rows


def write(formula: Callable[..., torch.Tensor], out: torch.Tensor, given: Sequence[Any]) -> None:
    """Writes what a formula gives as fast as can be where it is.

    Args:
        out: of the result's shape.
        given: what the formula takes.
    """
    if out.is_cuda:
        written(formula)(out, *given)
    else:
        out.copy_(formula(*given))
