"""What every coefficient does to every term's loss: to first order, and along the line from the base to the merge.

The first-order value of a cell (expert e, group g) is c[e,g] dL/dc[e,g]: by so much its task vector raises the loss,
and minus so much is the change that its removal is predicted to make (the Taylor importance of Molchanov et al. 2017,
arXiv 1611.06440, and 2019, arXiv 1906.10771). The gradient is exact, and one backward pass gives all cells.

Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) take the mean gradient along t c, t from 0 to 1. They
are complete: all cells together are the loss of the merge less that of the base. That tells how the merge came to its
loss; the first-order value tells what a small step away from it does. Where a merge leaps from the base at any
coefficient, as methods do that divide by the sum of weights, they miss the leap.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from datagen.batches import pad
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.space import Coefficients, Space
from optimizer.objective.terms import Block, Objective, Term

#: Tokens of a backward pass at most, padding included; one longer example is a pass of its own.
_TOKENS = 2048


def slopes(
    engine: ScoringEngine, objective: Objective, at: Coefficients, on_term: Callable[[], None] = lambda: None
) -> Coefficients:
    """D loss / d coefficients of every term over all its examples, [terms, experts, groups].

    Args:
        at: where it is taken, [experts, groups].
        on_term: told of every term that is done.
    """
    found = []
    for term in objective.terms:
        total = np.zeros(engine.space.shape)
        for numbers in _parts(term):
            block = Block([(term, numbers)])
            batch = pad(block.sequences, range(len(block.sequences)))
            share = len(numbers) / len(term.examples)
            total += engine.gradient(at, batch, partial(block.weighted, [share]), block.teachers)[0]
        found.append(total)
        on_term()
    return np.stack(found)


def integrated(
    engine: ScoringEngine,
    objective: Objective,
    merge: Coefficients,
    steps: int,
    on_term: Callable[[], None] = lambda: None,
) -> Coefficients:
    """Integrated gradients from the base to a merge, [terms, experts, groups].

    Args:
        merge: its coefficients, [experts, groups].
        steps: points of Gauss and Legendre's rule along the line.
        on_term: told of every term that is done, at every point.
    """
    places, weights = np.polynomial.legendre.leggauss(steps)
    mean = np.zeros((len(objective.terms), *merge.shape))
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        mean += weight * slopes(engine, objective, place * merge, on_term)
    return mean * merge


def by_group(values: Coefficients, coarse: Space, fine: Space) -> Coefficients:
    """Sums over the groups that lie in each of a coarser space's: what is first-order adds up.

    Args:
        values: [..., experts, fine groups].
    """
    return values @ coarse.within(fine).T


def _parts(term: Term) -> list[list[int]]:
    """A term's examples in parts that one backward pass takes, short ones together."""

    def width(number: int) -> int:
        return max(len(prompt) + len(answer) for prompt, answer in term.options(number))

    parts: list[list[int]] = [[]]
    sequences = 0
    for number in sorted(range(len(term.examples)), key=lambda number: (width(number), number)):
        sequences += len(term.options(number))
        if parts[-1] and sequences * width(number) > _TOKENS:
            parts.append([])
            sequences = len(term.options(number))
        parts[-1].append(number)
    return parts
