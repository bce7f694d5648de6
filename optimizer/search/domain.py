"""What a study's trials are made of: coefficients and hyper-parameters, each in its range."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution

from optimizer.merging.methods.base import Method
from optimizer.merging.space import Coefficients, Space
from optimizer.search_config import Range


class Point(NamedTuple):
    """What a trial evaluates.

    Attributes:
        coefficients: [experts, groups].
        settings: hyper-parameters that are searched.
    """

    coefficients: Coefficients
    settings: dict[str, float]


@dataclass(frozen=True)
class Domain:
    """A study's parameters.

    Attributes:
        space: the coefficients.
        low: least coefficients, [experts, groups].
        high: greatest ones, same shape.
        settings: hyper-parameter of the merge method -> its range.
        given: values of hyper-parameters where a trial is not to vary them.
    """

    space: Space
    low: Coefficients
    high: Coefficients
    settings: Mapping[str, Range]
    given: Mapping[str, float]

    @classmethod
    def box(cls, space: Space, box: Range, settings: Mapping[str, Range], given: Mapping[str, float]) -> "Domain":
        """The same range for every coefficient."""
        return cls(space, np.full(space.shape, box[0]), np.full(space.shape, box[1]), settings, given)

    @classmethod
    def around(cls, space: Space, point: Point, width: float, settings: Mapping[str, Range]) -> "Domain":
        """Ranges on either side of a point."""
        at = point.coefficients
        return cls(space, at - width, at + width, settings, point.settings)

    @cached_property
    def ends(self) -> dict[str, Range]:
        """Parameter of a trial -> its least and its greatest value."""
        both = zip(self.low.flatten().tolist(), self.high.flatten().tolist(), strict=True)
        return dict(zip(self.space.parameters, both, strict=True)) | dict(self.settings)

    @cached_property
    def ranges(self) -> dict[str, BaseDistribution]:
        """Parameter of a trial -> its distribution."""
        return {name: FloatDistribution(*ends) for name, ends in self.ends.items()}

    @cached_property
    def joint(self) -> dict[str, BaseDistribution]:
        """Those that samplers suggest together: what varies, in an order of its own."""
        return {name: one for name, one in sorted(self.ranges.items()) if not one.single()}

    def parameters(self, coefficients: Coefficients) -> dict[str, float]:
        """A point as a trial's parameters; hyper-parameters are as given."""
        return self.space.to_parameters(coefficients) | {name: self.given[name] for name in self.settings}

    def point(self, parameters: Mapping[str, float]) -> Point:
        """The point of a trial."""
        return Point(self.space.from_parameters(parameters), {name: parameters[name] for name in self.settings})


def numbers_of(method: Method, parameters: Mapping[str, object]) -> dict[str, float]:
    """Hyper-parameters that are one number for all experts, those at their default among them."""
    defaults: dict[str, object] = {parameter.name: parameter.default for parameter in method.parameters}
    found = {}
    for name, value in (defaults | dict(parameters)).items():
        one, *others = dict.fromkeys(value if isinstance(value, list) else [value])
        if not others:
            found[name] = float(one)
    return found
