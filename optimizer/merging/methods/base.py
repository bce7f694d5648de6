"""What a merge method is."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from datagen.errors import ConfigError
from optimizer.merging.kernels import Kernel
from optimizer.merging.tensors import Inputs

Value = float | int | bool

#: Hyper-parameters of one tensor: one value, or one value per expert where the parameter is per expert.
Settings = Mapping[str, Value | tuple[Value, ...]]


@dataclass(frozen=True)
class Parameter:
    """A hyper-parameter of a method.

    Attributes:
        name: in YAML files.
        default: also tells its type.
        low: least value that a search should try.
        high: greatest value that a search should try; equal to `low` for what is not to be searched.
        per_expert: whether every expert has its own.
        meaning: one clause.
    """

    name: str
    default: Value
    low: float
    high: float
    meaning: str
    per_expert: bool = False


@dataclass(frozen=True)
class Coefficient:
    """What the searched coefficient of an expert is called and means in a method.

    Attributes:
        name: in mergekit's files; empty where mergekit has no such parameter.
        meaning: one clause.
        default: where a recipe gives none; None where it must.
        shared: one value per merge rather than one per expert (methods of exactly one expert).
    """

    name: str
    meaning: str
    default: float | None = None
    shared: bool = False


@dataclass(frozen=True)
class Method(ABC):
    """How task vectors and coefficients become one tensor.

    Attributes:
        name: in YAML files, mergekit's where mergekit has the method.
        paper: a link to its definition.
        summary: one clause for tables and help.
        coefficient: what the searched number of each expert is.
        parameters: hyper-parameters.
        base: whether a base is needed, may be given, or is not used.
        experts: least and greatest number of them; None for no limit.
        differentiable: whether the result has a useful derivative by the coefficients.
    """

    name: str
    paper: str
    summary: str
    coefficient: Coefficient
    parameters: tuple[Parameter, ...] = ()
    base: Literal["required", "optional", "unused"] = "required"
    experts: tuple[int, int | None] = (1, None)
    differentiable: bool = True

    @abstractmethod
    def prepare(self, inputs: Inputs, settings: Settings) -> Kernel:
        """Does all work on one tensor that does not depend on the coefficients: trims, masks, Gram matrices.

        Args:
            inputs: base and experts, all of one shape.
            settings: every parameter of the method, from `settings`.

        Returns:
            What makes the merged tensor from sources and coefficients.
        """

    def settings(self, given: Mapping[str, Value | Sequence[Value]], experts: int) -> Settings:
        """Fills in defaults and spreads what is per expert.

        Raises:
            ConfigError: a parameter is unknown, or has not one value per expert.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        if unknown := [name for name in given if name not in known]:
            close = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known) or 'none'}"
            raise ConfigError(f"{self.name} has no parameter {unknown[0]!r}; {hint}")
        return {
            name: _spread(parameter, given.get(name, parameter.default), experts) for name, parameter in known.items()
        }

    def check(self, experts: int, has_base: bool) -> None:
        """Whether so many sources can be merged.

        Raises:
            ConfigError: too few, too many, or no base.
        """
        least, most = self.experts
        if experts < least or (most is not None and experts > most):
            wanted = str(least) if least == most else f"{least} or more" if most is None else f"{least} to {most}"
            raise ConfigError(f"{self.name} merges {wanted} models besides the base, but got {experts}; list others")
        if self.base == "required" and not has_base:
            raise ConfigError(f"{self.name} needs a base model, but none is given; set one")


def _spread(parameter: Parameter, value: Value | Sequence[Value], experts: int) -> Value | tuple[Value, ...]:
    kind = type(parameter.default)
    if not isinstance(value, Sequence):
        return (kind(value),) * experts if parameter.per_expert else kind(value)
    if not parameter.per_expert or len(value) != experts:
        wanted = f"one value per expert, {experts} in all" if parameter.per_expert else "one value"
        raise ConfigError(f"{parameter.name} must be {wanted}, but got {list(value)}")
    return tuple(kind(one) for one in value)


def coefficients_of(values: Sequence[float]) -> torch.Tensor:
    """Coefficients as the float64 tensor that kernels take, [experts]."""
    return torch.tensor(list(values), dtype=torch.float64)


def shares(coefficients: torch.Tensor, method: str) -> torch.Tensor:
    """Coefficients divided by their sum.

    Raises:
        ConfigError: the sum is 0.
    """
    total = coefficients.sum()
    if float(total.detach()) == 0.0:
        given = ", ".join(f"{value:g}" for value in coefficients.tolist())
        raise ConfigError(f"{method}: coefficients must not sum to 0, but are {given}; change one of them")
    return coefficients / total
