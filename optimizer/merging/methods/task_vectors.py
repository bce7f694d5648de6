"""Sums of task vectors: a table of methods that differ in what they trim, and in whether signs must agree."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from datagen.errors import ConfigError
from optimizer.merging.draws import uniform
from optimizer.merging.kernels import Kernel
from optimizer.merging.masks import EVERYTHING, NOTHING, Band, magnitudes, packed
from optimizer.merging.methods.base import Coefficient, Method, Parameter, Settings
from optimizer.merging.selection import largest, ranks
from optimizer.merging.tensors import Inputs
from optimizer.merging.vectors import TaskVectors

#: What an expert's trim keeps: a band of magnitudes, or a mask of the tensor's shape.
Trim = Band | torch.Tensor

#: A norm below this is not rescaled.
_LEAST_NORM = 1e-7


def magnitude(inputs: Inputs, expert: int, density: float) -> Trim:
    """Keeps the largest magnitudes, at least one (TIES, arXiv 2306.01708)."""
    count = inputs.shape.numel()
    if density >= 1:
        return EVERYTHING
    return largest(inputs, expert, max(1, int(density * count))) if density > 0 else NOTHING


def outliers(inputs: Inputs, expert: int, density: float, gamma: float) -> Trim:
    """Drops the largest `gamma` of the magnitudes, then the smallest (Breadcrumbs, arXiv 2312.06795)."""
    if density >= 1:
        return EVERYTHING
    count = inputs.shape.numel()
    keep = int(density * count)
    smallest = max(0, count - keep - int(gamma * count))
    return ranks(inputs, expert, smallest, smallest + keep)


def random(inputs: Inputs, expert: int, density: float) -> Trim:
    """Keeps each element with the probability `density` (DARE, arXiv 2311.03099)."""
    if density >= 1:
        return EVERYTHING
    return _draws(inputs, expert) < density


def by_rank(inputs: Inputs, expert: int, density: float, epsilon: float) -> Trim:
    """Keeps larger magnitudes of a row with a higher probability (DELLA, arXiv 2406.11617).

    The probability grows linearly from density - epsilon at the row's least magnitude to density + epsilon at its
    greatest. A tensor of one dimension is one row.

    Raises:
        ConfigError: those two are not inside of (0, 1).
    """
    if density >= 1:
        return EVERYTHING
    if density <= 0:
        return NOTHING
    if density - epsilon <= 0 or density + epsilon >= 1:
        raise ConfigError(
            f"density - epsilon and density + epsilon must be inside of (0, 1), but got density {density} and epsilon "
            f"{epsilon}; lower epsilon"
        )
    rows = magnitudes(inputs.vector(expert), inputs.dtype).reshape(-1, inputs.columns)
    columns = rows.shape[1]
    ranked = rows.argsort(dim=1, stable=True).argsort(dim=1) / max(1, columns - 1)
    probability = (density - epsilon) + ranked * 2 * epsilon if columns > 1 else torch.full_like(rows, density)
    return _draws(inputs, expert).view_as(rows) < probability


@dataclass(frozen=True)
class TaskVectorMethod(Method):
    """Base + lambda x the merged, trimmed task vectors.

    Attributes:
        trim: what is kept of each task vector; its arguments after the expert are parameters of the method.
        consensus: whether signs must agree.
    """

    trim: Callable[..., Trim] | None = None
    consensus: bool = False

    def prepare(self, inputs: Inputs, settings: Settings) -> Kernel:
        """Trims each task vector once."""
        trims = [self._trimmed(inputs, i, settings) for i in range(len(inputs.experts))]
        whole = all(trim is EVERYTHING for trim in trims)
        banded = [trim for trim in trims if isinstance(trim, Band)]
        bands = tuple(banded) if len(banded) == len(trims) and not whole else None
        return TaskVectors(
            bands=bands,
            bits=None if whole or bands else tuple(packed(_mask(trim, inputs)) for trim in trims),
            rescale=None if whole or not settings.get("rescale") else _rescale(inputs, trims),
            consensus=self.consensus,
            normalize=bool(settings["normalize"]),
            scale=float(settings["lambda"]),  # type: ignore[arg-type]
        )

    def _trimmed(self, inputs: Inputs, expert: int, settings: Settings) -> Trim:
        if self.trim is None:
            return EVERYTHING
        own = {name: value[expert] for name, value in settings.items() if isinstance(value, tuple)}
        return self.trim(inputs, expert, **own)


def _draws(inputs: Inputs, expert: int) -> torch.Tensor:
    purpose = f"{inputs.seed}/{inputs.name}/{inputs.sources[expert]}"
    return uniform(purpose, inputs.shape.numel(), inputs.device).view(inputs.shape)


def _mask(trim: Trim, inputs: Inputs) -> torch.Tensor:
    """A trim as a mask; among masks, a band is all or nothing."""
    if isinstance(trim, torch.Tensor):
        return trim
    return torch.full(inputs.shape, trim is EVERYTHING, device=inputs.device)


def _rescale(inputs: Inputs, trims: Sequence[Trim]) -> torch.Tensor:
    """What brings each trimmed vector's sum of magnitudes back to that of the whole vector."""
    factors = []
    for i, trim in enumerate(trims):
        sizes = inputs.vector(i).flatten().abs()
        kept = (
            trim.keeps(magnitudes(inputs.vector(i), inputs.dtype).flatten())
            if isinstance(trim, Band)
            else trim.flatten()
        )
        before, after = sizes.sum(dtype=torch.float64), sizes[kept].sum(dtype=torch.float64)
        small = bool(before < _LEAST_NORM) or bool(after < _LEAST_NORM)
        factors.append(1.0 if small else float(before / after))
    return torch.tensor(factors, dtype=torch.float32, device=inputs.device)


_DENSITY = Parameter("density", 1.0, 0.1, 1.0, "share of each task vector that is kept", per_expert=True)
_GAMMA = Parameter("gamma", 0.01, 0.0, 0.1, "share of the largest magnitudes that is dropped", per_expert=True)
_EPSILON = Parameter("epsilon", 0.15, 0.01, 0.3, "half the range of keeping probabilities in a row", per_expert=True)
_LAMBDA = Parameter("lambda", 1.0, 1.0, 1.0, "factor on the merged task vector")

_OWN: dict[Callable[..., Trim] | None, tuple[Parameter, ...]] = {
    None: (),
    magnitude: (_DENSITY,),
    random: (_DENSITY,),
    outliers: (_DENSITY, _GAMMA),
    by_rank: (_DENSITY, _EPSILON),
}


def _row(
    name: str,
    paper: str,
    summary: str,
    trim: Callable[..., Trim] | None,
    *,
    consensus: bool = False,
    normalize: bool = False,
    rescale: bool = False,
    experts: tuple[int, int | None] = (1, None),
) -> TaskVectorMethod:
    """One line of the table; `normalize` and `rescale` are defaults."""
    rescaled = (Parameter("rescale", rescale, rescale, rescale, "keep the sum of magnitudes of a trimmed vector"),)
    return TaskVectorMethod(
        name=name,
        paper=f"https://arxiv.org/abs/{paper}",
        summary=summary,
        coefficient=Coefficient("weight", "factor on the expert's task vector"),
        parameters=(
            *_OWN[trim],
            Parameter("normalize", normalize, normalize, normalize, "divide by the sum of the weights that took part"),
            *(rescaled if trim else ()),
            _LAMBDA,
        ),
        experts=experts,
        trim=trim,
        consensus=consensus,
    )


TASK_VECTOR_METHODS = (
    _row("task_arithmetic", "2212.04089", "base + weighted task vectors", None),
    _row("mergealign", "2411.06824", "base + a x domain vector + b x alignment vector", None, experts=(2, 2)),
    _row("ties", "2306.01708", "largest elements, signs agree", magnitude, consensus=True, normalize=True),
    _row("dare_linear", "2311.03099", "random elements, rescaled", random, rescale=True),
    _row("dare_ties", "2311.03099", "random elements, rescaled, signs agree", random, consensus=True, rescale=True),
    _row("della_linear", "2406.11617", "random elements, larger ones likelier, rescaled", by_rank, rescale=True),
    _row(
        "della",
        "2406.11617",
        "random elements, larger ones likelier, rescaled, signs agree",
        by_rank,
        consensus=True,
        normalize=True,
        rescale=True,
    ),
    _row("breadcrumbs", "2312.06795", "neither the largest nor the smallest elements", outliers),
    _row(
        "breadcrumbs_ties",
        "2312.06795",
        "neither the largest nor the smallest elements, signs agree",
        outliers,
        consensus=True,
    ),
)
