"""Weighted sums of whole models: linear, LM-Cocktail, passthrough."""

from dataclasses import dataclass

import torch

from optimizer.merging.kernels import Kernel, WeightedSum
from optimizer.merging.methods.base import Coefficient, Method, Parameter, Settings, shares
from optimizer.merging.tensors import Inputs


@dataclass(frozen=True)
class Linear(Method):
    """Sum of weight x model, divided by the weights' sum if wanted."""

    def prepare(self, inputs: Inputs, settings: Settings) -> Kernel:
        """Nothing to prepare."""
        normalize = bool(settings["normalize"])
        return WeightedSum(_of_a_mean if normalize else _same, normalize=normalize)


@dataclass(frozen=True)
class LmCocktail(Method):
    """Convex combination of models, weights = softmax(coefficient / temperature)."""

    def prepare(self, inputs: Inputs, settings: Settings) -> Kernel:
        """Nothing to prepare."""
        temperature = float(settings["temperature"])  # type: ignore[arg-type]
        return WeightedSum(lambda coefficients: torch.softmax(coefficients / temperature, 0))


@dataclass(frozen=True)
class Passthrough(Method):
    """One model, times a scale."""

    def prepare(self, inputs: Inputs, settings: Settings) -> Kernel:
        """Nothing to prepare."""
        return WeightedSum(_same)


def _same(coefficients: torch.Tensor) -> torch.Tensor:
    return coefficients


def _of_a_mean(coefficients: torch.Tensor) -> torch.Tensor:
    shares(coefficients, "linear")  # raises where there is no mean
    return coefficients


LINEAR = Linear(
    name="linear",
    paper="https://arxiv.org/abs/2203.05482",
    summary="weighted mean of the models (model soups)",
    coefficient=Coefficient("weight", "share of the model"),
    parameters=(Parameter("normalize", True, 1, 1, "divide by the sum of the weights"),),
    base="unused",
)
LM_COCKTAIL = LmCocktail(
    name="lm_cocktail",
    paper="https://arxiv.org/abs/2311.13534",
    summary="convex combination, weights = softmax(coefficient / temperature)",
    coefficient=Coefficient("", "minus the model's loss on a few examples"),
    parameters=(Parameter("temperature", 1.0, 0.1, 10.0, "of the softmax"),),
    base="unused",
)
PASSTHROUGH = Passthrough(
    name="passthrough",
    paper="https://github.com/arcee-ai/mergekit",
    summary="one model as it is, or scaled",
    coefficient=Coefficient("scale", "factor on the weights", default=1.0),
    base="unused",
    experts=(1, 1),
)
