"""Mini-batch descent on the coefficients: the mathematics, apart from the sampler that plugs it into Optuna.

Adam (Kingma and Ba 2015, arXiv 1412.6980) on lambda [experts, groups] with one example per term per step. For a
weighted sum the gradient costs one backward pass, whatever the number of coefficients; AdaMerging (arXiv 2310.02575)
learns per-layer coefficients in the same way, from unlabelled test data.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from optimizer.merging.space import Coefficients

BETAS = (0.9, 0.99)
EPSILON = 1e-8

#: (coefficients [experts, groups], an example's number per term) -> d loss / d coefficients [experts, groups].
Gradient = Callable[[Coefficients, Sequence[int]], Coefficients]


@dataclass(frozen=True)
class DescentState:
    """All that the next step depends on.

    Attributes:
        step: how many steps were taken.
        point: coefficients, [experts, groups].
        first: Adam's running mean of gradients, same shape.
        second: Adam's running mean of squared gradients, same shape.
    """

    step: int
    point: Coefficients
    first: Coefficients
    second: Coefficients

    @classmethod
    def start(cls, shape: tuple[int, int], value: float) -> Self:
        """Before the first step, with every coefficient at one value."""
        return cls(0, np.full(shape, value), np.zeros(shape), np.zeros(shape))

    def to_json(self) -> dict[str, Any]:
        """As a storage keeps it; floats survive exactly."""
        arrays = {"point": self.point, "first": self.first, "second": self.second}
        return {"step": self.step} | {name: array.tolist() for name, array in arrays.items()}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(saved["step"], *(np.array(saved[name]) for name in ("point", "first", "second")))


@dataclass(frozen=True)
class Descent:
    """One descent's settings.

    Args:
        steps: in all; the rate falls to 0 over them.
        rate: at the first step.
        bound: coefficients stay within plus and minus this.
        sizes: how many examples each term has.
        seed: of the order in which examples are visited.
    """

    steps: int
    rate: float
    bound: float
    sizes: Sequence[int]
    seed: int

    def advance(self, state: DescentState, until: int, gradient: Gradient) -> DescentState:
        """Takes steps until so many are taken in all."""
        step, point, first, second = state.step, state.point, state.first, state.second
        while step < until:
            slope = gradient(point, self.picks(step))
            first = BETAS[0] * first + (1 - BETAS[0]) * slope
            second = BETAS[1] * second + (1 - BETAS[1]) * slope**2
            step += 1
            rate = self.rate * 0.5 * (1 + math.cos(math.pi * (step - 1) / self.steps))
            unbiased = first / (1 - BETAS[0] ** step)
            spread = np.sqrt(second / (1 - BETAS[1] ** step)) + EPSILON
            point = np.clip(point - rate * unbiased / spread, -self.bound, self.bound)
        return DescentState(step, point, first, second)

    def picks(self, step: int) -> list[int]:
        """Which example of each term a step uses: every term goes through its examples in a new order each round."""
        chosen = []
        for term, size in enumerate(self.sizes):
            turn, place = divmod(step, size)
            order = list(range(size))
            random.Random(f"{self.seed}-{term}-{turn}").shuffle(order)
            chosen.append(order[place])
        return chosen
