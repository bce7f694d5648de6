"""Model Stock (Jang et al. 2024, arXiv 2403.19522): how far to go from the base follows from the experts' angles."""

from dataclasses import dataclass
from functools import partial
from itertools import combinations

import torch

from optimizer.merging.gram import gram, gram_by_row
from optimizer.merging.kernels import Kernel, WeightedSum
from optimizer.merging.methods.base import Coefficient, Method, Parameter, Settings, shares
from optimizer.merging.tensors import Inputs


@dataclass(frozen=True)
class ModelStock(Method):
    """T x mean of the experts + (1 - t) x base, t = N c / (1 + (N - 1) c) with c the mean cosine of task vectors."""

    def prepare(self, inputs: Inputs, settings: Settings) -> Kernel:
        """Takes the angles, of the whole tensor or of each row."""
        experts, base = list(inputs.experts), inputs.needed_base
        columns = 0
        if settings["filter_wise"]:
            columns = inputs.columns
            products = gram_by_row([expert.reshape(-1, columns) for expert in experts], base.reshape(-1, columns))
        else:
            products = gram(experts, base)
        step = _step(products)
        # As a sum of task vectors, whose roundings are smaller than those of whole weights.
        weights = partial(_weights, step=step[:, None] if columns else step)
        return WeightedSum(weights, deltas=True, columns=columns)


def _step(products: torch.Tensor) -> torch.Tensor:
    count = products.shape[-1]
    norms = products.diagonal(dim1=-2, dim2=-1).sqrt()
    cosines = [
        (products[..., i, j] / (norms[..., i] * norms[..., j]).clamp(min=1e-6)).clamp(-1, 1)
        for i, j in combinations(range(count), 2)
    ]
    cosine = torch.stack(cosines).mean(0)
    divisor = 1 + (count - 1) * cosine
    singular = divisor.abs() < 1e-6
    return torch.where(singular, 0.0, count * cosine / torch.where(singular, 1.0, divisor))


def _weights(coefficients: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    return torch.stack([step * share for share in shares(coefficients, "model_stock")])


MODEL_STOCK = ModelStock(
    name="model_stock",
    paper="https://arxiv.org/abs/2403.19522",
    summary="from the base towards the experts' mean, as far as their angles say",
    coefficient=Coefficient("", "share in the experts' mean", default=1.0),
    parameters=(Parameter("filter_wise", False, 0, 0, "angles of each row rather than of the whole tensor"),),
    experts=(2, None),
)
