"""The search space: which coefficients there are, and how an array of them maps to tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from optimizer.bunch import Bunch
from optimizer.merging.groups import block_names, depths, groups

#: Coefficients [experts, groups], or whatever else has a number for each of them.
Coefficients = npt.NDArray[np.float64]

#: Granularities of their own kind: points along the depth with straight lines between them, and blocks of rows.
ANCHORS, BLOCK = "anchors", "block"

#: A tensor's coefficients: one per expert; or such a list for each of its blocks.
ByTensor = list[float] | list[list[float]]


@dataclass(frozen=True)
class Space:
    """Coefficients as an array [experts, groups], and the share that each group has in each tensor's.

    Attributes:
        experts: names, in the bunch's order.
        groups: names, in depth order.
        tensors: names, in depth order.
        blocks: into how many even blocks of rows each tensor is cut, [tensors].
        shares: [groups, pieces], where pieces are the blocks of the first tensor, then of the next; a piece's
            coefficient is the mean of its groups', weighted by these.
    """

    experts: tuple[str, ...]
    groups: tuple[str, ...]
    tensors: tuple[str, ...]
    blocks: tuple[int, ...]
    shares: npt.NDArray[np.float64]

    @classmethod
    def of(cls, bunch: Bunch, granularity: str, anchors: int = 3, blocks: int = 8) -> "Space":
        """The space of a bunch.

        Args:
            granularity: one of `groups.group_of`'s, or `anchors`, or `block`.
            anchors: how many points along the depth, if that is the granularity.
            blocks: how many blocks of rows a tensor is cut into, if that is the granularity.
        """
        experts = [expert.name for expert in bunch.experts]
        if granularity == BLOCK:
            return cls.blocked(experts, {name: bunch.base.shapes[name] for name in bunch.names}, blocks)
        return cls.named(experts, bunch.names, granularity, anchors)

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
        return cls(tuple(experts), tuple(members), tensors, (1,) * len(tensors), shares)

    @classmethod
    def blocked(cls, experts: Sequence[str], shapes: Mapping[str, Sequence[int]], blocks: int) -> "Space":
        """A coefficient for every block of rows; tensors of one dimension stay whole.

        Args:
            shapes: tensor -> its shape.
            blocks: of a tensor, at most one for each row.
        """
        tensors = tuple(name for some in groups(list(shapes), "tensor").values() for name in some)
        cuts = tuple(min(blocks, shapes[name][0]) if len(shapes[name]) > 1 else 1 for name in tensors)
        named = [group for name, count in zip(tensors, cuts, strict=True) for group in block_names(name, count)]
        return cls(tuple(experts), tuple(named), tensors, cuts, np.eye(len(named)))

    @classmethod
    def anchored(cls, experts: Sequence[str], of: Sequence[str], anchors: int) -> "Space":
        """Coefficients at points evenly along the depth, and straight lines between them.

        What comes before the first layer takes the first point, what comes after the last one the last.
        """
        tensors = tuple(name for some in groups(of, "layer").values() for name in some)
        at = np.array([depth * (anchors - 1) for depth in depths(tensors)])
        shares = np.maximum(0.0, 1.0 - np.abs(at[None, :] - np.arange(anchors)[:, None]))
        names = tuple(f"anchor {i}" for i in range(anchors))
        return cls(tuple(experts), names, tensors, (1,) * len(tensors), shares)

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

    def by_tensor(self, coefficients: Coefficients) -> dict[str, ByTensor]:
        """Tensor name -> coefficient of every expert, or that for each of its blocks."""
        pieces = (coefficients @ self.shares).T  # [pieces, experts]
        parts = np.split(pieces, np.cumsum(self.blocks)[:-1])
        return {
            name: (part[0] if len(part) == 1 else part).tolist() for name, part in zip(self.tensors, parts, strict=True)
        }

    def gathered(self, by_tensor: Mapping[str, Coefficients]) -> Coefficients:
        """What tensors' coefficients are worth, as what the groups' are: the gradient by the chain rule.

        Args:
            by_tensor: name -> [experts], or [blocks, experts].
        """
        pieces = [np.atleast_2d(by_tensor[name]) for name in self.tensors]
        return np.concatenate(pieces).T @ self.shares.T

    def within(self, finer: "Space") -> npt.NDArray[np.float64]:
        """The share that each of these groups has in each of a finer space's, [groups, finer groups].

        Args:
            finer: each of its groups has pieces that this space treats alike.
        """
        starts = dict(zip(self.tensors, np.cumsum(self.blocks) - self.blocks, strict=True))
        owner = [
            starts[name] + block * self.blocks[self.tensors.index(name)] // count
            for name, count in zip(finer.tensors, finer.blocks, strict=True)
            for block in range(count)
        ]  # the piece of this space that each of the finer one's lies in
        return self.shares[:, [owner[int(np.argmax(row))] for row in finer.shares]]

    def to_parameters(self, coefficients: Coefficients) -> dict[str, float]:
        """The array as Optuna parameters."""
        return dict(zip(self.parameters, coefficients.flatten().tolist(), strict=True))

    def from_parameters(self, parameters: Mapping[str, float]) -> Coefficients:
        """Optuna parameters as the array."""
        return np.array([parameters[name] for name in self.parameters]).reshape(self.shape)
