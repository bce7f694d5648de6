"""Mini-batch descent on the coefficients: the mathematics, apart from the sampler that plugs it into Optuna.

A term may have a limit on its share of wrong answers. Its weight is then multiplied by a dual variable that grows with
every wrong answer and falls with every right one until both balance at the limit (stochastic dual ascent on the rate
itself, the proxy-Lagrangian of Cotter et al. 2019, arXiv 1804.06500), and never falls below 1.

Coarse to fine: a descent goes through stages, each of which begins where the last one ended and moves groups together
that a later one moves apart. Coefficients are always those of the finest groups.

Adam (Kingma and Ba 2015, arXiv 1412.6980) on lambda [experts, groups] with one example per term per step. For a
weighted sum the gradient costs one backward pass, whatever the number of coefficients; AdaMerging (arXiv 2310.02575)
learns per-layer coefficients in the same way, from unlabelled test data.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np

from optimizer.merging.space import Coefficients

BETAS = (0.9, 0.99)
EPSILON = 1e-8

#: How fast dual variables move, from which share of the steps on, and how large they may be.
DUAL_RATE, DUAL_FROM, DUAL_MOST = 0.1, 0.25, 100.0

#: (coefficients [experts, groups], an example's number per term, multipliers of the terms) -> d loss / d coefficients
#: [experts, groups], and whether each of these examples is answered rightly.
Gradient = Callable[[Coefficients, Sequence[int], Sequence[float]], tuple[Coefficients, Sequence[bool]]]


_ARRAYS = ("point", "first", "second", "multipliers")


@dataclass(frozen=True)
class DescentState:
    """All that the next step depends on.

    Attributes:
        step: how many steps were taken.
        point: coefficients, [experts, groups].
        first: Adam's running mean of gradients, [experts, groups of the stage].
        second: Adam's running mean of squared gradients, same shape.
        multipliers: dual variables, [terms]; 1 where a term has no limit.
    """

    step: int
    point: Coefficients
    first: Coefficients
    second: Coefficients
    multipliers: Coefficients

    @classmethod
    def start(cls, shape: tuple[int, int], value: float, terms: int) -> Self:
        """Before the first step, with every coefficient at one value."""
        return cls(0, np.full(shape, value), np.zeros(shape), np.zeros(shape), np.ones(terms))

    def to_json(self) -> dict[str, Any]:
        """As a storage keeps it; floats survive exactly."""
        return {"step": self.step} | {name: getattr(self, name).tolist() for name in _ARRAYS}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(saved["step"], *(np.array(saved[name]) for name in _ARRAYS))


@dataclass(frozen=True)
class Stage:
    """Some steps in which groups move together.

    Attributes:
        steps: how many; the rate falls to 0 over them.
        rate: at the first step.
        shares: how much of each of the stage's groups' moves each group takes part in, [groups of the stage, groups].
    """

    steps: int
    rate: float
    shares: Coefficients


@dataclass(frozen=True)
class Descent:
    """One descent's settings.

    Attributes:
        stages: one after the other.
        bound: coefficients stay within plus and minus this.
        sizes: how many examples each term has.
        seed: of the order in which examples are visited.
        limits: the share of wrong answers that each term may have; none where it has no limit.
    """

    stages: Sequence[Stage]
    bound: float
    sizes: Sequence[int]
    seed: int
    limits: Sequence[float | None] = ()

    @property
    def steps(self) -> int:
        """Of all stages together."""
        return sum(stage.steps for stage in self.stages)

    def advance(self, state: DescentState, until: int, gradient: Gradient) -> DescentState:
        """Takes steps until so many are taken in all."""
        step, point, multipliers = state.step, state.point, state.multipliers
        first, second = state.first, state.second
        while step < until:
            stage, done = self._stage(step)
            slope, right = gradient(point, self.picks(step), multipliers.tolist())
            if not np.isfinite(slope).all():
                slope = np.zeros_like(slope)  # a step that overflows tells nothing about where to go
            slope = slope @ stage.shares.T
            if step >= DUAL_FROM * self.steps:
                multipliers = self._pressed(multipliers, right)
            if done == 0:
                first = second = np.zeros_like(slope)
            first = BETAS[0] * first + (1 - BETAS[0]) * slope
            second = BETAS[1] * second + (1 - BETAS[1]) * slope**2
            step, done = step + 1, done + 1
            rate = stage.rate * 0.5 * (1 + math.cos(math.pi * (done - 1) / stage.steps))
            unbiased = first / (1 - BETAS[0] ** done)
            spread = np.sqrt(second / (1 - BETAS[1] ** done)) + EPSILON
            point = np.clip(point - rate * (unbiased / spread) @ stage.shares, -self.bound, self.bound)
        return DescentState(step, point, first, second, multipliers)

    def _pressed(self, multipliers: Coefficients, right: Sequence[bool]) -> Coefficients:
        """Dual variables after one example of each term."""
        pressed = multipliers.copy()
        for term, limit in enumerate(self.limits):
            if limit is not None:
                pressed[term] = np.clip(pressed[term] + DUAL_RATE * (float(not right[term]) - limit), 1.0, DUAL_MOST)
        return pressed

    def _stage(self, step: int) -> tuple[Stage, int]:
        """The stage that a step belongs to, and how many of its steps come before."""
        for stage in self.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        raise ValueError(f"a step must be one of the descent's {self.steps}, but {step} are taken beyond them")

    def picks(self, step: int) -> list[int]:
        """Which example of each term a step uses: every term goes through its examples in a new order each round."""
        chosen = []
        for term, size in enumerate(self.sizes):
            turn, place = divmod(step, size)
            chosen.append(_order(self.seed, term, turn, size)[place])
        return chosen


@lru_cache(maxsize=64)
def _order(seed: int, term: int, turn: int, size: int) -> list[int]:
    """The order in which a term's examples are visited in a round."""
    order = list(range(size))
    random.Random(f"{seed}-{term}-{turn}").shuffle(order)
    return order
