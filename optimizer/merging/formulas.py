"""The formulas of merging in torch, on float32: what gradients are taken through, and what a GPU runs compiled."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch

from optimizer.merging.masks import magnitudes

#: A sum of weights closer to 0 than this is not divided by.
LEAST_DIVISOR = 1e-8


class Edges(NamedTuple):
    """One edge of every expert's band.

    Attributes:
        values: up to an index and after it, [experts, 2].
        cuts: these indices, [experts].
    """

    values: torch.Tensor
    cuts: torch.Tensor

    def at(self, expert: int, index: torch.Tensor) -> torch.Tensor:
        """Of one expert, by index."""
        return torch.where(index > self.cuts[expert], self.values[expert, 1], self.values[expert, 0])


class Bands(NamedTuple):
    """Which magnitudes of each expert are kept.

    Attributes:
        least: of them.
        most: of them; none if there is no bound.
        first: index of the first element.
    """

    least: Edges
    most: Edges | None
    first: int

    def keeps(self, expert: int, keys: torch.Tensor) -> torch.Tensor:
        """A mask over magnitudes."""
        count = keys.numel()
        kind = torch.int32 if self.first + count < 1 << 31 else torch.int64  # which takes a GPU several times as long
        index = torch.arange(count, dtype=kind, device=keys.device).view(keys.shape) + self.first
        kept = keys >= self.least.at(expert, index)
        return kept if self.most is None else kept & (keys <= self.most.at(expert, index))


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
    bands: Bands | None,
    kept: Sequence[torch.Tensor] | None,
    rescale: torch.Tensor | None,
    scale: torch.Tensor,
    consensus: bool,
    normalize: bool,
) -> torch.Tensor:
    """Base + scale x merged task vectors in float32.

    Args:
        base: flat, or rows.
        experts: of its shape.
        dtype: that magnitudes are compared in.
        weights: [experts].
        bands: of the magnitudes kept.
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
        if bands is not None:
            vector = torch.where(bands.keeps(i, magnitudes(vector, dtype)), vector, 0.0)
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
    return torch.where(total.abs() < LEAST_DIVISOR, 1.0, total)


def row_products(base: torch.Tensor | None, sources: Sequence[torch.Tensor], along: torch.Tensor) -> torch.Tensor:
    """<along, source - base> of every row, or <along, source> without base, [sources, rows], float64.

    Args:
        base: [rows, columns], as the others.
    """
    single = along.float()
    origin = 0.0 if base is None else base.float()
    return torch.stack([((source.float() - origin) * single).sum(1).double() for source in sources])


def products(base: torch.Tensor | None, sources: Sequence[torch.Tensor], along: torch.Tensor) -> torch.Tensor:
    """The sums of `row_products`, [1, sources], float64."""
    return row_products(base, sources, along).sum(1)[None]


@cache
def written(formula: Callable[..., torch.Tensor]) -> Callable[..., None]:
    """A formula whose result is written into its first argument, rounded to that one's type, as one fused kernel."""

    def run(out: torch.Tensor, *given: Any) -> None:
        out.copy_(formula(*given))

    return _compiled(run)


@cache
def compiled(formula: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A formula as one fused kernel, or two where it sums over a tensor."""
    return _compiled(formula)


def _compiled(run: Callable[..., Any]) -> Callable[..., Any]:
    # Without these the compiler stores what is used more than a few times, and reads it back from memory.
    options: dict[str, Any] = {f"realize_{what}_threshold": 1 << 30 for what in ("opcount", "reads", "acc_reads")}
    # And without these a GPU fuses products with sums, divides roughly and drops subnormals: other bits than a CPU's.
    options |= {"emulate_precision_casts": True}
    options |= {"eager_numerics.division_rounding": True, "eager_numerics.disable_ftz": True}
    # Types and settings each have a kernel of their own, and past the limit there would be none.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 128)
    found: Callable[..., Any] = torch.compile(run, dynamic=True, options=options)
    return found
