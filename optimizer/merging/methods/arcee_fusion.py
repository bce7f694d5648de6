"""Arcee Fusion: takes from the expert only the elements whose change matters most."""

from dataclasses import dataclass

import torch

from optimizer.merging.kernels import Kernel
from optimizer.merging.masks import packed
from optimizer.merging.methods.base import Coefficient, Method, Settings
from optimizer.merging.selection import nth_largest
from optimizer.merging.tensors import Inputs
from optimizer.merging.vectors import TaskVectors


@dataclass(frozen=True)
class ArceeFusion(Method):
    """Base + the task vector where its importance is above median + 1.5 x interquartile range.

    Importance is |expert - base| times the divergence KL(softmax(expert row) || softmax(base row)). Quantiles are
    exact, where mergekit samples tensors of more than a million elements at random.
    """

    def prepare(self, inputs: Inputs, settings: Settings) -> Kernel:
        """Finds the elements."""
        expert, base = (one.float().reshape(-1, inputs.columns) for one in (inputs.experts[0], inputs.needed_base))
        after, before = torch.softmax(expert, -1) + 1e-8, torch.softmax(base, -1) + 1e-8
        divergence = (after * torch.log(after / before)).sum(-1, keepdim=True)
        importance = (expert - base).abs() * divergence
        first, median, third = (_quantile(importance.flatten(), q) for q in (0.25, 0.5, 0.75))
        threshold = median + 1.5 * (third - first)
        return TaskVectors(bits=(packed(importance >= threshold),))


def _quantile(values: torch.Tensor, q: float) -> torch.Tensor:
    count = values.numel()
    return torch.tensor(nth_largest(values, count - int(q * (count - 1)))[0])


ARCEE_FUSION = ArceeFusion(
    name="arcee_fusion",
    paper="https://github.com/arcee-ai/mergekit",
    summary="the elements of one expert whose change matters most",
    coefficient=Coefficient("", "factor on the changes that are taken", default=1.0),
    experts=(1, 1),
)
