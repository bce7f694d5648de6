"""SCE (Wan et al. 2024, arXiv 2408.07990): select by variance, calculate weights by size, erase minority signs."""

from dataclasses import dataclass

import torch

from optimizer.merging.formulas import sum_of
from optimizer.merging.kernels import Kernel
from optimizer.merging.masks import packed, unpacked
from optimizer.merging.methods.base import Coefficient, Method, Parameter, Settings
from optimizer.merging.selection import nth_largest
from optimizer.merging.tensors import Inputs

#: A sum of mean squares below this gives every expert the same weight.
_LEAST_SQUARES = 1e-6


@dataclass(frozen=True)
class Sce(Method):
    """Base + the mean of selected task vectors, weighted by their squares, where signs agree with the plain sum."""

    def prepare(self, inputs: Inputs, settings: Settings) -> Kernel:
        """Selects elements and weighs experts."""
        vectors = torch.stack([inputs.vector(i).flatten() for i in range(len(inputs.experts))])
        share = float(settings["select_topk"])  # type: ignore[arg-type]
        kept = None
        if share < 1:
            kept = _most_varied(vectors, share)
            vectors = vectors * kept
        squares = vectors.square().mean(1, dtype=torch.float64).cpu()
        small = bool(squares.sum() < _LEAST_SQUARES)
        sizes = torch.full_like(squares, 1 / len(squares)) if small else squares / squares.sum()
        return _SceKernel(sizes, None if kept is None else packed(kept))


def _most_varied(vectors: torch.Tensor, share: float) -> torch.Tensor:
    variance = vectors.var(0, unbiased=False)
    count = int(int(variance.count_nonzero()) * share) if share > 0 else 0
    if count == 0:
        return torch.zeros_like(variance, dtype=torch.bool)
    value, last = nth_largest(variance, count)
    ties = torch.arange(len(variance), device=variance.device) <= last
    return (variance > value) | ((variance == value) & ties)


@dataclass(frozen=True)
class _SceKernel(Kernel):
    sizes: torch.Tensor
    bits: torch.Tensor | None

    def weights(self, coefficients: torch.Tensor) -> torch.Tensor:
        return self.sizes * coefficients

    def copied(self, weights: torch.Tensor) -> int | None:
        return 0 if not bool(weights.any()) else None

    def formula(self, inputs: Inputs, weights: torch.Tensor, first: int) -> torch.Tensor:
        vectors = [inputs.vector(i) for i in range(len(inputs.experts))]
        if self.bits is not None:
            kept = unpacked(self.bits, first, len(vectors[0]))
            vectors = [torch.where(kept, vector, 0.0) for vector in vectors]
        sign = torch.where(sum_of(vectors) >= 0, 1.0, -1.0)
        shares = [torch.where(vector * sign > 0, weight, 0.0) for vector, weight in zip(vectors, weights, strict=True)]
        merged = sum_of([vector * share for vector, share in zip(vectors, shares, strict=True)])
        return inputs.needed_base.float() + merged / sum_of(shares).clamp(min=1e-6)


SCE = Sce(
    name="sce",
    paper="https://arxiv.org/abs/2408.07990",
    summary="elements that vary most, weighted by size, signs agree",
    coefficient=Coefficient("", "factor on the expert's weight", default=1.0),
    parameters=(Parameter("select_topk", 1.0, 0.1, 1.0, "share of the elements with variance that is kept"),),
)
