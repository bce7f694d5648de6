"""What turns the sources of one tensor into the merged one, in one pass over memory.

A kernel holds what was prepared for one tensor. Its formula is written once, in torch, on float32: that is what runs on
a GPU (compiled), what gradients are taken through, and what the native CPU kernels must equal bit for bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from optimizer.merging import native
from optimizer.merging.masks import Band, magnitudes, unpacked
from optimizer.merging.tensors import Inputs

#: Elements per step on a CPU: a few float32 buffers of it stay in the second-level cache. A multiple of 8, for bits.
_STEP = 1 << 16


class Kernel(ABC):
    """Merges one tensor, for any coefficients."""

    #: Elements that must stay together: a part of a tensor that is merged alone begins at a multiple of it.
    unit: int = 8

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

    def gradient(self, inputs: Inputs, coefficients: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        """D loss / d coefficients, [experts], float64.

        Args:
            inputs: the sources.
            coefficients: where it is taken, [experts], float64.
            gradient: of the loss by the merged tensor, of the sources' shape.
        """
        at = coefficients.detach().clone().requires_grad_()
        weights = self.weights(at)
        if not weights.requires_grad:  # the mean of one model, whatever its share
            return torch.zeros_like(at)
        (chained,) = torch.autograd.grad(weights, at, self._by_weights(inputs, weights.detach(), gradient))
        return chained

    def _by_weights(self, inputs: Inputs, weights: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        flat, along = _flat(inputs), gradient.reshape(-1)
        single = weights.to(inputs.device, torch.float32).requires_grad_()
        total = torch.zeros_like(weights)
        for begin, end in self._steps(along.numel(), 0, along.device):
            merged = self.formula(_part(flat, begin, end), single, begin)
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
            native.task_vectors(inputs.needed_base, inputs.experts, weights, out, first=first)
        else:
            divisor = float(sum_of(weights.unbind())) if self.normalize else None
            native.weighted_sum(inputs.all, weights, out, divisor)
        return True

    def _by_weights(self, inputs: Inputs, weights: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        if weights.dim() > 1:
            return super()._by_weights(inputs, weights, gradient)
        flat = _flat(inputs)
        dots = dot_products(flat.base if self.deltas else None, flat.experts if self.deltas else flat.all, gradient)
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
        kept = [unpacked(bits, first, count) for bits in self.bits] if self.bits else None
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
        native.task_vectors(
            inputs.needed_base,
            inputs.experts,
            weights,
            out,
            first=first,
            dtype=inputs.dtype,
            bands=self.bands,
            bits=self.bits,
            rescale=self.rescale,
            consensus=self.consensus,
            normalize=self.normalize,
            divisor=float(plain_divisor(weights)) if self.normalize else 1.0,
            scale=self.scale,
        )
        return True

    def _by_weights(self, inputs: Inputs, weights: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        if self.bands or self.bits or self.rescale is not None or self.consensus or self.normalize:
            return super()._by_weights(inputs, weights, gradient)
        flat = _flat(inputs)
        return self.scale * dot_products(flat.base, flat.experts, gradient)


def weighted_sum(
    base: torch.Tensor | None, sources: Sequence[torch.Tensor], weights: torch.Tensor, normalize: bool
) -> torch.Tensor:
    """Sum of weight x source in float32, or base + sum of weight x task vector, in the sources' order.

    Args:
        base: what task vectors are taken against; None to sum the sources themselves.
        sources: of one shape.
        weights: [sources, ...], to be multiplied with a source each.
        normalize: whether to divide a sum of sources by the weights' sum.
    """
    if base is not None:
        origin = base.float()
        vectors = [(source.float() - origin) * weight for source, weight in zip(sources, weights, strict=True)]
        return origin + sum_of(vectors)
    total = torch.zeros_like(sources[0], dtype=torch.float32)
    for source, weight in zip(sources, weights, strict=True):
        total = torch.addcmul(total, source.float(), weight)  # rounds once, as linear merging is defined
    return total / sum_of(weights.unbind()) if normalize else total


def task_vectors(
    base: torch.Tensor,
    experts: Sequence[torch.Tensor],
    dtype: torch.dtype,
    weights: torch.Tensor,
    edges: torch.Tensor | None,
    kept: Sequence[torch.Tensor] | None,
    rescale: torch.Tensor | None,
    scale: torch.Tensor,
    consensus: bool,
    normalize: bool,
) -> torch.Tensor:
    """Base + scale x merged task vectors in float32.

    Args:
        base: flat.
        experts: flat.
        dtype: that magnitudes are compared in.
        weights: [experts].
        edges: least and greatest magnitude kept of each expert, [experts, 2].
        kept: masks of each expert, bool.
        rescale: [experts].
        scale: a scalar.
        consensus: whether signs must agree.
        normalize: whether to divide by the weights that took part.
    """
    origin = base.float()
    vectors = []
    for i, expert in enumerate(experts):
        vector = expert.float() - origin
        if edges is not None:
            key = magnitudes(vector, dtype)
            vector = torch.where((key >= edges[i, 0]) & (key <= edges[i, 1]), vector, 0.0)
        if kept is not None:
            vector = torch.where(kept[i], vector, 0.0)
        vectors.append((vector if rescale is None else vector * rescale[i]) * weights[i])
    total = sum_of(vectors)
    divisor = plain_divisor(weights) if normalize else None
    if consensus:
        sign = torch.where(total >= 0, 1.0, -1.0)
        agreeing = [vector * sign > 0 for vector in vectors]
        total = sum_of([torch.where(agrees, vector, 0.0) for agrees, vector in zip(agreeing, vectors, strict=True)])
        if normalize:
            summed = sum_of(
                [torch.where(agrees, weight, 0.0) for agrees, weight in zip(agreeing, weights, strict=True)]
            )
            divisor = torch.where(summed == 0, 1.0, summed)
    return origin + (total if divisor is None else total / divisor) * scale


def sum_of(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Their sum, added in order."""
    total = tensors[0]
    for tensor in tensors[1:]:
        total = total + tensor
    return total


def plain_divisor(weights: torch.Tensor) -> torch.Tensor:
    """Sum of the weights, or 1 where it is next to nothing."""
    total = sum_of(weights.unbind())
    return torch.where(total.abs() < 1e-8, 1.0, total)


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


def dot_products(base: torch.Tensor | None, sources: Sequence[torch.Tensor], gradient: torch.Tensor) -> torch.Tensor:
    """<gradient, source - base> of each source, or <gradient, source> without base, [sources], float64."""
    along = gradient.reshape(-1).float().contiguous()
    if native.usable(*([] if base is None else [base]), *sources, along):
        return native.dot_products(base, sources, along)
    origin = 0.0 if base is None else base.float()
    return torch.stack([torch.dot(along, (source.float() - origin)) for source in sources]).double().cpu()


@cache
def compiled(formula: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A formula as one fused kernel."""
    # Without these the compiler stores what is used more than a few times, and reads it back from memory.
    options: dict[str, Any] = {f"realize_{what}_threshold": 1 << 30 for what in ("opcount", "reads", "acc_reads")}
    # And without these a GPU fuses products with sums, divides roughly and drops subnormals: other bits than a CPU's.
    options |= {"emulate_precision_casts": True}
    options |= {"eager_numerics.division_rounding": True, "eager_numerics.disable_ftz": True}
    run: Callable[..., Any] = torch.compile(formula, dynamic=True, options=options)
    return run


def _fastest(formula: Callable[..., torch.Tensor], weights: torch.Tensor) -> Callable[..., torch.Tensor]:
    return compiled(formula) if weights.is_cuda and not weights.requires_grad else formula


def _map(inputs: Inputs, change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
    base = None if inputs.base is None else change(inputs.base)
    return replace(inputs, base=base, experts=tuple(change(expert) for expert in inputs.experts))


def _flat(inputs: Inputs) -> Inputs:
    return _map(inputs, lambda tensor: tensor.reshape(-1))


def _part(inputs: Inputs, begin: int, end: int) -> Inputs:
    return _map(inputs, lambda tensor: tensor[begin:end])
