"""Weightings of several objectives, in the order in which cheap descents go through them."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from optimizer.search_config import SweepConfig


class Weighting(NamedTuple):
    """How much each objective counts.

    Attributes:
        factors: of the objectives; their geometric mean is 1.
        after: number of the weighting that a descent begins at the end of; none for the first.
    """

    factors: tuple[float, ...]
    after: int | None


def weightings(objectives: int, config: SweepConfig) -> list[Weighting]:
    """All weightings, equal ones first and the others from there outwards, each after the nearest one before it.

    They lie evenly on a logarithmic scale: along the edges between each two objectives the ratio of the two goes from
    `config.ratio` to its inverse.
    """
    steps = config.per_axis // 2
    scale = math.log(config.ratio) / 2 / steps
    # Logarithms that sum to 0, none further off than the ends of an edge.
    lattice = [
        tuple(scale * each for each in whole)
        for whole in itertools.product(range(-steps, steps + 1), repeat=objectives)
        if sum(whole) == 0
    ]
    ordered = sorted(lattice, key=lambda point: (math.hypot(*point), point))
    return [
        Weighting(tuple(math.exp(each) for each in point), _nearest(point, ordered[:number]))
        for number, point in enumerate(ordered)
    ]


def _nearest(point: Sequence[float], others: Sequence[Sequence[float]]) -> int | None:
    return min(range(len(others)), key=lambda i: math.dist(point, others[i]), default=None)
