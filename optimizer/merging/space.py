"""The search space: which coefficients there are, and how an array of them maps to tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from optimizer.bunch import Bunch
from optimizer.merging.groups import groups

Coefficients = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Space:
    """Coefficients as an array [experts, groups].

    Attributes:
        experts: names, in the bunch's order.
        members: group -> tensor names, groups in depth order.
    """

    experts: tuple[str, ...]
    members: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, bunch: Bunch, granularity: str) -> "Space":
        """The space of a bunch at a granularity (`groups.group_of` has the choices)."""
        return cls(tuple(expert.name for expert in bunch.experts), groups(bunch.names, granularity))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Group names in depth order."""
        return tuple(self.members)

    @cached_property
    def group_index(self) -> dict[str, int]:
        """Tensor name -> column of its group."""
        return {name: column for column, names in enumerate(self.members.values()) for name in names}

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """Names of all coefficients, row by row, as an Optuna study knows them."""
        return tuple(f"{expert}/{group}" for expert in self.experts for group in self.groups)

    @property
    def shape(self) -> tuple[int, int]:
        """(experts, groups)."""
        return len(self.experts), len(self.groups)

    def constant(self, per_expert: Mapping[str, float]) -> Coefficients:
        """The same coefficient in all groups of an expert; experts not named get 0."""
        rows = [np.full(len(self.groups), per_expert.get(expert, 0.0)) for expert in self.experts]
        return np.stack(rows)

    def by_tensor(self, coefficients: Coefficients) -> dict[str, list[float]]:
        """Tensor name -> lambda of every expert."""
        columns = coefficients.T.tolist()
        return {name: columns[column] for name, column in self.group_index.items()}

    def to_parameters(self, coefficients: Coefficients) -> dict[str, float]:
        """The array as Optuna parameters."""
        return dict(zip(self.parameters, coefficients.flatten().tolist(), strict=True))

    def from_parameters(self, parameters: Mapping[str, float]) -> Coefficients:
        """Optuna parameters as the array."""
        return np.array([parameters[name] for name in self.parameters]).reshape(self.shape)
