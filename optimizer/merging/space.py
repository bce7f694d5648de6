"""The search space: which coefficients there are, and how an array of them maps to tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from optimizer.bunch import Bunch
from optimizer.merging.groups import depths, groups

#: Coefficients [experts, groups], or whatever else has a number for each of them.
Coefficients = npt.NDArray[np.float64]

#: Granularity whose coefficients are points along the depth, with straight lines between them.
ANCHORS = "anchors"


@dataclass(frozen=True)
class Space:
    """Coefficients as an array [experts, groups], and the share that each group has in each tensor's.

    Attributes:
        experts: names, in the bunch's order.
        groups: names, in depth order.
        tensors: names, in depth order.
        shares: [groups, tensors]; a tensor's coefficient is the mean of its groups', weighted by these.
    """

    experts: tuple[str, ...]
    groups: tuple[str, ...]
    tensors: tuple[str, ...]
    shares: npt.NDArray[np.float64]

    @classmethod
    def of(cls, bunch: Bunch, granularity: str, anchors: int = 3) -> "Space":
        """The space of a bunch.

        Args:
            granularity: one of `groups.group_of`'s, or `anchors`.
            anchors: how many points along the depth, if that is the granularity.
        """
        return cls.named([expert.name for expert in bunch.experts], bunch.names, granularity, anchors)

    @classmethod
    def named(cls, experts: Sequence[str], tensors: Sequence[str], granularity: str, anchors: int = 3) -> "Space":
        """The space of so named experts and tensors; see `of`."""
        if granularity == ANCHORS:
            return cls.anchored(experts, tensors, anchors)
        return cls.grouped(experts, groups(tensors, granularity))

    @classmethod
    def grouped(cls, experts: Sequence[str], members: Mapping[str, Sequence[str]]) -> "Space":
        """One coefficient for all tensors of a group.

        Args:
            members: group -> its tensors.
        """
        tensors = tuple(name for names in members.values() for name in names)
        column = {name: i for i, names in enumerate(members.values()) for name in names}
        shares = np.zeros((len(members), len(tensors)))
        shares[[column[name] for name in tensors], range(len(tensors))] = 1.0
        return cls(tuple(experts), tuple(members), tensors, shares)

    @classmethod
    def anchored(cls, experts: Sequence[str], names: Sequence[str], anchors: int) -> "Space":
        """Coefficients at points evenly along the depth, and straight lines between them.

        What comes before the first layer takes the first point, what comes after the last one the last.
        """
        tensors = tuple(name for some in groups(names, "layer").values() for name in some)
        at = np.array([depth * (anchors - 1) for depth in depths(tensors)])
        shares = np.maximum(0.0, 1.0 - np.abs(at[None, :] - np.arange(anchors)[:, None]))
        return cls(tuple(experts), tuple(f"anchor {i}" for i in range(anchors)), tensors, shares)

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
        """Tensor name -> coefficient of every expert."""
        return dict(zip(self.tensors, (coefficients @ self.shares).T.tolist(), strict=True))

    def gathered(self, by_tensor: Mapping[str, Coefficients]) -> Coefficients:
        """What tensors' coefficients are worth, as what the groups' are: the gradient by the chain rule.

        Args:
            by_tensor: name -> [experts].
        """
        return np.stack([by_tensor[name] for name in self.tensors], axis=1) @ self.shares.T

    def within(self, finer: "Space") -> npt.NDArray[np.float64]:
        """The share that each of these groups has in each of a finer space's, [groups, finer groups].

        Args:
            finer: each of its groups has tensors that this space treats alike.
        """
        place = {name: i for i, name in enumerate(self.tensors)}
        first = [finer.tensors[int(np.argmax(row))] for row in finer.shares]
        return self.shares[:, [place[name] for name in first]]

    def to_parameters(self, coefficients: Coefficients) -> dict[str, float]:
        """The array as Optuna parameters."""
        return dict(zip(self.parameters, coefficients.flatten().tolist(), strict=True))

    def from_parameters(self, parameters: Mapping[str, float]) -> Coefficients:
        """Optuna parameters as the array."""
        return np.array([parameters[name] for name in self.parameters]).reshape(self.shape)
