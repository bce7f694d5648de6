"""What the tests of merging share: methods with settings, sources, and mergekit as an oracle."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import pytest
import torch

from optimizer.merging.kernels import Kernel
from optimizer.merging.methods import METHODS, Method
from optimizer.merging.methods.base import Parameter, Value, coefficients_of
from optimizer.merging.methods.task_vectors import _draws
from optimizer.merging.tensors import Inputs

DTYPES = [torch.float32, torch.bfloat16, torch.float16]

#: Coefficients of three experts; methods with few of them, or with another unit, have their own.
COEFFICIENTS = (0.6, 0.3, 0.45)
_OWN = {"nearswap": (0.002,), "passthrough": (0.7,)}

#: Tensors of the models that a bank is tested with.
SHAPES = {"embed": (61, 24), "norm": (24,), "experts": (19, 6, 7), "scale": (), "odd": (3, 5)}

#: Values for what is not searched.
_FIXED = {"lambda": 0.7}


@dataclass(frozen=True)
class Case:
    """A method with settings.

    Attributes:
        method: merged by.
        settings: that are not defaults.
        based: whether a base is given.
    """

    method: Method
    settings: dict[str, Value]
    based: bool

    @property
    def experts(self) -> int:
        least, most = self.method.experts
        return most or max(least, 3)

    @property
    def coefficients(self) -> tuple[float, ...]:
        return _OWN.get(self.method.name, COEFFICIENTS)[: self.experts]

    def kernel(self, inputs: Inputs) -> Kernel:
        return self.method.prepare(inputs, self.method.settings(self.settings, len(inputs.experts)))

    def merge(
        self, inputs: Inputs, coefficients: Sequence[float] | None = None, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        wanted = coefficients_of(self.coefficients if coefficients is None else coefficients)
        target = torch.empty(inputs.shape, dtype=inputs.dtype) if out is None else out
        return self.kernel(inputs).merge(inputs, wanted, target)

    def __str__(self) -> str:
        shown = [f"{name}={value:g}" for name, value in self.settings.items()]
        return "-".join([self.method.name, *([] if self.based else ["baseless"]), *shown])


def _middle(parameter: Parameter) -> Value:
    return type(parameter.default)((parameter.low + parameter.high) / 2)


def _cases(method: Method) -> list[Case]:
    middle = {each.name: _middle(each) for each in method.parameters if each.low < each.high}
    flipped = {each.name: not each.default for each in method.parameters if isinstance(each.default, bool)}
    fixed = {each.name: _FIXED[each.name] for each in method.parameters if each.name in _FIXED}
    variants: list[dict[str, Value]] = [{}]
    for variant in (middle, middle | flipped | fixed):
        variants += [variant] if variant not in variants else []
    bases = {"required": [True], "optional": [True, False], "unused": [False]}[method.base]
    return [Case(method, variant, based) for variant in variants for based in bases]


#: Every method with its defaults, with every searched parameter amid its range, and with every switch turned as well.
CASES = [case for method in METHODS.values() for case in _cases(method)]

each_case = pytest.mark.parametrize("case", CASES, ids=str)


def inputs_of(
    case: Case, shape: tuple[int, ...], dtypes: Sequence[torch.dtype] = (torch.float32,), seed: int = 0
) -> Inputs:
    """Experts that differ from a base as fine-tuned models do; types are taken in turn."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator) * 0.02
    tensors = [base, *(base + torch.randn(shape, generator=generator) * 0.003 for _ in range(case.experts))]
    typed = [tensor.to(dtypes[i % len(dtypes)]) for i, tensor in enumerate(tensors)]
    inputs = Inputs.of(typed[0] if case.based else None, typed[1:])
    return replace(inputs, name="layer.weight", sources=tuple("abc"[: case.experts]), seed=3)


@dataclass
class Model:
    """A source in memory that counts how often it is read."""

    name: str
    tensors: Mapping[str, torch.Tensor]
    reads: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        return {name: tensor.dtype for name, tensor in self.tensors.items()}

    def tensor(self, name: str) -> torch.Tensor:
        return self.rows(name, 0, self.tensors[name].shape[0] if self.tensors[name].dim() else 1)

    def rows(self, name: str, start: int, stop: int) -> torch.Tensor:
        self.reads.append((name, start, stop))
        tensor = self.tensors[name]
        return tensor[start:stop].clone() if tensor.dim() else tensor.clone()


def model(name: str, seed: int, dtype: torch.dtype = torch.float32) -> Model:
    own = torch.Generator().manual_seed(seed)
    shared = torch.Generator().manual_seed(99)
    tensors = {
        key: (torch.randn(shape, generator=shared) * 0.02 + torch.randn(shape, generator=own) * 0.003).to(dtype)
        for key, shape in SHAPES.items()
    }
    return Model(name, tensors | {"steps": torch.tensor([seed, 1])})


def models(experts: int) -> tuple[Model, list[Model]]:
    types = [torch.bfloat16, torch.float32, torch.float16]
    return model("base", 0, torch.bfloat16), [model(f"expert {i}", i + 1, types[i % 3]) for i in range(experts)]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(bits(one), bits(other))


def ulps(result: torch.Tensor, exact: torch.Tensor, inputs: Inputs) -> float:
    """Greatest distance in units of the last place of the largest source, or of the result, at that element."""
    largest = torch.stack([each.double().abs() for each in (*inputs.all, exact)]).amax(0).clamp(min=1e-30)
    unit = torch.exp2(largest.log2().floor()) * torch.finfo(result.dtype).eps
    return float(((result.double() - exact.double()).abs() / unit).max())


def digest() -> str:
    """A hash of what every case merges, in an order of its own."""
    found = {str(case): case.merge(inputs_of(case, (13, 21), DTYPES)) for case in reversed(CASES)}
    merged = b"".join(bits(found[name]).numpy().tobytes() for name in sorted(found))
    return hashlib.sha256(merged).hexdigest()


@cache
def _merge_tensors() -> Any:
    from mergekit.merge_methods import merge_tensors  # seconds, once

    return merge_tensors


def mergekit(
    case: Case, inputs: Inputs, coefficients: Sequence[float] | None = None, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """What mergekit makes of it.

    Its unstable sorts are made stable, its random masks are ours, and its norms are exact where it is to work in
    float64, since random trims always fall back to float32 in it.

    Args:
        dtype: worked in; None for the sources' own.
    """
    used = list(case.coefficients if coefficients is None else coefficients)
    name, settings, coefficient = case.method.name, dict(case.settings), case.method.coefficient
    if name == "lm_cocktail":
        temperature = float(settings.pop("temperature", 1.0))
        weights = torch.softmax(coefficients_of(used) / temperature, 0).tolist()
        parameters = settings | {"weight": weights, "normalize": False}
    elif coefficient.name:
        parameters = settings | {coefficient.name: used[0] if coefficient.shared else used}
    else:
        parameters = settings
    theirs = {"mergealign": "task_arithmetic", "lm_cocktail": "linear"}.get(name, name)
    with _stable(inputs, case, dtype):
        return _merge_tensors()(
            list(inputs.all), theirs, parameters=parameters, base_index=0 if case.based else None, dtype=dtype
        )


def exact(case: Case, inputs: Inputs, coefficients: Sequence[float]) -> torch.Tensor:
    """The merged tensor in float64, with the coefficients that mergekit has no parameter for."""
    name, ones = case.method.name, [1.0] * case.experts
    if name == "karcher":
        from mergekit.merge_methods.karcher import karcher_merge_tensors

        shares = [one / sum(coefficients) for one in coefficients]
        return karcher_merge_tensors([expert.double() for expert in inputs.experts], shares, **case.settings)
    if name == "arcee_fusion":
        base = inputs.needed_base.double()
        return base + coefficients[0] * (mergekit(case, inputs, ones).double() - base)
    if name == "model_stock":
        base = inputs.needed_base.double()
        vectors = torch.stack([expert.double() - base for expert in inputs.experts])
        mean, moved = vectors.mean(0), mergekit(case, inputs, ones, torch.float64) - base
        over = [-1] if case.settings.get("filter_wise") else [-2, -1]
        step = (moved * mean).sum(over, keepdim=True) / mean.square().sum(over, keepdim=True)
        shares = coefficients_of(coefficients) / sum(coefficients)
        return base + step * torch.tensordot(shares, vectors, 1)
    if name == "sce":
        import mergekit.merge_methods.sce as sce

        weigh, factors = sce.sce_weight, coefficients_of(coefficients)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sce, "sce_weight", lambda vectors: weigh(vectors) * factors)
            return mergekit(case, inputs, ones, torch.float64)
    return mergekit(case, inputs, coefficients, torch.float64)


@contextmanager
def _stable(inputs: Inputs, case: Case, dtype: torch.dtype | None) -> Any:
    argsort, sort = torch.argsort, torch.sort
    densities = case.method.settings(case.settings, len(inputs.experts)).get("density", ())
    least = 0.0 if case.method.name.startswith("della") else -1.0  # up to which nothing is drawn
    drawn = (_draws(inputs, i) for i, density in enumerate(densities) if least < density < 1)

    def topk(values: torch.Tensor, k: int, **_: Any) -> Any:
        found = sort(values, descending=True, stable=True)
        return found.values[:k], found.indices[:k]

    _merge_tensors()
    import mergekit.sparsify as sparsify

    rescaled = sparsify.rescaled_masked_tensor
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "argsort", lambda values, **how: argsort(values, **how, stable=True))
        patch.setattr(torch, "sort", lambda values, **how: sort(values, **how, stable=True))
        patch.setattr(torch, "topk", topk)
        patch.setattr(torch, "bernoulli", lambda chances: (next(drawn).view_as(chances) < chances).to(chances))
        if dtype == torch.float64:
            patch.setattr(
                sparsify, "rescaled_masked_tensor", lambda x, mask, norm: rescaled(x.double(), mask.double(), norm)
            )
        yield
