"""NearSwap (alchemonaut 2024): takes the expert's elements where they are close to the base's."""

from dataclasses import dataclass

import torch

from optimizer.merging.kernels import Kernel
from optimizer.merging.methods.base import Coefficient, Method, Settings
from optimizer.merging.tensors import Inputs


@dataclass(frozen=True)
class NearSwap(Method):
    """W x expert + (1 - w) x base with w = t / |base - expert|, at most 1."""

    def prepare(self, inputs: Inputs, settings: Settings) -> Kernel:
        """Nothing to prepare."""
        return _NearSwapKernel()


class _NearSwapKernel(Kernel):
    def weights(self, coefficients: torch.Tensor) -> torch.Tensor:
        return coefficients

    def copied(self, weights: torch.Tensor) -> int | None:
        return 0 if float(weights[0]) <= 0 else None

    def formula(self, inputs: Inputs, weights: torch.Tensor, first: int) -> torch.Tensor:
        base, expert = inputs.needed_base.float(), inputs.experts[0].float()
        share = (weights[0] / (base - expert).abs().clamp(min=1e-6)).clamp(0, 1)
        return share * expert + (1 - share) * base


NEARSWAP = NearSwap(
    name="nearswap",
    paper="https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
    summary="one expert's elements where they are close to the base's",
    coefficient=Coefficient("t", "distance up to which an element is taken whole", shared=True),
    experts=(1, 1),
)
