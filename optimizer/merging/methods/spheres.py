"""Interpolation on spheres. Each needs only the sources' inner products to know the weights of a plain sum."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from datagen.errors import ConfigError
from optimizer.merging.gram import gram, gram_by_row
from optimizer.merging.kernels import Kernel, WeightedSum
from optimizer.merging.methods.base import Coefficient, Method, Parameter, Settings, shares
from optimizer.merging.tensors import Inputs

#: Directions closer than this are interpolated linearly by SLERP.
_PARALLEL = 0.9995

_TINY = 1e-8


@dataclass(frozen=True)
class Slerp(Method):
    """From base to expert along the arc between their directions."""

    def prepare(self, inputs: Inputs, settings: Settings) -> Kernel:
        """Takes the angle."""
        products = gram(list(inputs.all))
        norms = products.diagonal().sqrt()
        norms = torch.where(norms > _TINY, norms, 1.0)
        cosine = (products[0, 1] / (norms[0] * norms[1])).clamp(-1, 1)
        return WeightedSum(partial(_arc, cosine=cosine, linear=cosine.abs() > _PARALLEL))


def _arc(coefficients: torch.Tensor, cosine: torch.Tensor, linear: torch.Tensor) -> torch.Tensor:
    """Weights of both ends at t = the only coefficient, [2, ...] by the shape of `cosine`."""
    return _between(coefficients[0], cosine, linear)


def _between(t: torch.Tensor, cosine: torch.Tensor, linear: torch.Tensor) -> torch.Tensor:
    angle = torch.acos(torch.where(linear, 0.0, cosine))
    curved = torch.stack([torch.sin((1 - t) * angle), torch.sin(t * angle)]) / torch.sin(angle)
    straight = torch.stack([(1 - t).expand_as(cosine), t.expand_as(cosine)])
    return torch.where(linear, straight, curved)


@dataclass(frozen=True)
class NuSlerp(Method):
    """SLERP between two experts with weights, of task vectors where a base is given."""

    def prepare(self, inputs: Inputs, settings: Settings) -> Kernel:
        """Takes the angle, of the whole tensor or of each row or column."""
        deltas = inputs.base is not None
        if settings["nuslerp_flatten"]:
            cosine, columns = _cosine(gram(list(inputs.experts), inputs.base)), 0
        else:
            cosine, columns = self._cosines(inputs, by_column=bool(settings["nuslerp_row_wise"]))
        weights = partial(_nu_weights, cosine=cosine, linear=1 - cosine.square() <= _TINY**2)
        return WeightedSum(weights, deltas=deltas, columns=columns)

    def _cosines(self, inputs: Inputs, by_column: bool) -> tuple[torch.Tensor, int]:
        rows = inputs.shape[0] if by_column and len(inputs.shape) > 1 else inputs.shape.numel() // inputs.columns
        experts = [expert.reshape(rows, -1) for expert in inputs.experts]
        base = None if inputs.base is None else inputs.base.reshape(rows, -1)
        if not by_column or len(inputs.shape) == 1:
            return _cosine(gram_by_row(experts, base))[:, None], experts[0].shape[1]
        turned = gram_by_row([expert.T for expert in experts], None if base is None else base.T)
        return _cosine(turned)[None, :], experts[0].shape[1]


def _cosine(products: torch.Tensor) -> torch.Tensor:
    norms = products.diagonal(dim1=-2, dim2=-1).sqrt().clamp(min=1e-7)
    return (products[..., 0, 1] / (norms[..., 0] * norms[..., 1])).clamp(-1, 1)


def _nu_weights(coefficients: torch.Tensor, cosine: torch.Tensor, linear: torch.Tensor) -> torch.Tensor:
    total = coefficients.sum()
    t = torch.where(total.abs() < 1e-6, 0.5, coefficients[1] / total)
    return _between(t, cosine, linear)


@dataclass(frozen=True)
class MultiSlerp(Method):
    """Weighted mean of directions in the plane that touches the sphere at their plain mean."""

    def prepare(self, inputs: Inputs, settings: Settings) -> Kernel:
        """Takes the inner products."""
        deltas = inputs.base is not None
        if len(inputs.experts) == 1:
            return WeightedSum(torch.ones_like, deltas=deltas)
        weights = partial(
            _multi_weights,
            products=gram(list(inputs.experts), inputs.base),
            normalize=bool(settings["normalize_weights"]),
            eps=float(settings["eps"]),  # type: ignore[arg-type]
            name=inputs.name,
        )
        return WeightedSum(weights, deltas=deltas)


def _multi_weights(
    coefficients: torch.Tensor, products: torch.Tensor, normalize: bool, eps: float, name: str
) -> torch.Tensor:
    weights = shares(coefficients, "multislerp") if normalize else coefficients
    norms = products.diagonal().sqrt()
    units = 1 / (norms + eps)  # factors that turn sources into unit vectors
    mean = weights * units
    size = _length(mean, products)
    if size < eps:
        if len(weights) == 2 or not bool((norms >= eps).any()):  # two, or nothing that has a direction
            return weights
        raise ConfigError(f"multislerp: the weighted directions must not cancel out, but do in {name}; change a weight")
    mean = mean / size
    along = units * (products @ mean)
    tangent = mean_free = weights * units - (weights * along).sum() * mean
    angle = _length(tangent, products) + eps
    return (mean * torch.cos(angle) + mean_free * torch.sin(angle) / angle) * (weights * norms).sum()


@dataclass(frozen=True)
class Karcher(Method):
    """The point on the sphere with the least summed squared distance to all models, by Riemannian descent."""

    def prepare(self, inputs: Inputs, settings: Settings) -> Kernel:
        """Takes the inner products."""
        if len(inputs.experts) == 1:
            return WeightedSum(torch.ones_like)
        weights = partial(
            _karcher_weights,
            products=gram(list(inputs.experts)),
            steps=int(settings["max_iter"]),  # type: ignore[arg-type]
            tolerance=float(settings["tol"]),  # type: ignore[arg-type]
        )
        return WeightedSum(weights)


def _karcher_weights(coefficients: torch.Tensor, products: torch.Tensor, steps: int, tolerance: float) -> torch.Tensor:
    given = shares(coefficients, "karcher")
    norms = products.diagonal().sqrt()
    scale = (given * norms).sum()
    used = norms > tolerance
    if not bool(used.any()):
        return torch.zeros_like(coefficients)
    units = torch.where(used, 1 / torch.where(used, norms, 1.0), 0.0)
    share = torch.where(used, given, 0.0) / given[used].sum()
    mean = share * units
    size = _length(mean, products)
    first = torch.nn.functional.one_hot(used.int().argmax(), len(norms)) * units
    mean = first if size < tolerance else mean / size
    for _ in range(steps):
        cosine = (units * (products @ mean)).clamp(-1, 1)
        angle = torch.acos(torch.where(cosine.abs() < 1, cosine, 0.0))
        angle = torch.where(cosine >= 1, 0.0, angle)
        far = used & (angle >= tolerance)
        pull = torch.where(far, share * angle / torch.sin(torch.where(far, angle, 1.0)), 0.0)
        tangent = pull * units - (pull * cosine).sum() * mean
        size = _length(tangent, products)
        if size < tolerance:
            break
        mean = torch.cos(size) * mean + torch.sin(size) * tangent / size
        mean = mean / _length(mean, products)
    return scale * mean


def _length(weights: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    """Norm of a weighted sum of sources."""
    return (weights @ products @ weights).clamp(min=1e-300).sqrt()


_WEIGHT: Callable[[str], Coefficient] = partial(Coefficient, "weight")

SLERP = Slerp(
    name="slerp",
    paper="https://dl.acm.org/doi/10.1145/325165.325242",
    summary="along the arc from the base to one expert",
    coefficient=Coefficient("t", "0 is the base, 1 the expert", shared=True),
    experts=(1, 1),
)
NUSLERP = NuSlerp(
    name="nuslerp",
    paper="https://github.com/arcee-ai/mergekit",
    summary="along the arc between two experts or their task vectors",
    coefficient=_WEIGHT("share of the arc"),
    parameters=(
        Parameter("nuslerp_flatten", True, 1, 1, "one angle for the whole tensor"),
        Parameter("nuslerp_row_wise", False, 0, 0, "without flatten: angles of columns rather than of rows"),
    ),
    base="optional",
    experts=(2, 2),
)
MULTISLERP = MultiSlerp(
    name="multislerp",
    paper="https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
    summary="weighted mean of many directions on the sphere",
    coefficient=_WEIGHT("share in the mean"),
    parameters=(
        Parameter("normalize_weights", True, 1, 1, "divide weights by their sum"),
        Parameter("eps", 1e-8, 1e-8, 1e-8, "keeps divisions finite"),
    ),
    base="optional",
)
KARCHER = Karcher(
    name="karcher",
    paper="https://arxiv.org/abs/2603.04972",
    summary="Riemannian centre of mass of the models on the sphere",
    coefficient=Coefficient("", "share in the mean", default=1.0),
    parameters=(
        Parameter("max_iter", 10, 1, 100, "steps at most"),
        Parameter("tol", 1e-5, 1e-5, 1e-5, "steps shorter than this end the descent"),
    ),
    base="unused",
)
