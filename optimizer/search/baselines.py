"""Merges that need no search; they are a study's first trials, so its result is never worse than any of them."""

import math
from collections.abc import Mapping, Sequence

from optimizer.merging.space import Coefficients, Space

#: What every trial that is no point of the descent is called.
NAIVE = UNIFORM, ADDED, COCKTAIL = "uniform", "task_arithmetic", "lm_cocktail"


def parents(space: Space) -> dict[str, Coefficients]:
    """The base and each expert, as the coefficients that give them bit for bit."""
    return {"base": space.constant({})} | {name: space.constant({name: 1.0}) for name in space.experts}


def naive(space: Space) -> dict[str, Coefficients]:
    """The uniform average of the experts, and all task vectors added in full."""
    return {
        UNIFORM: space.constant(dict.fromkeys(space.experts, 1 / len(space.experts))),
        ADDED: space.constant(dict.fromkeys(space.experts, 1.0)),
    }


def lm_cocktail(space: Space, losses: Mapping[str, float], temperature: float) -> Coefficients:
    """LM-Cocktail (arXiv 2311.13534): experts weighted by softmax(-loss / temperature), a convex combination.

    Args:
        losses: of each expert, on the same data the search uses.
        temperature: 1 in paper 1's formula, 5 in the library.
    """
    scores = [-losses[name] / temperature for name in space.experts]
    return space.constant(dict(zip(space.experts, _softmax(scores), strict=True)))


def _softmax(values: Sequence[float]) -> list[float]:
    shifted = [math.exp(value - max(values)) for value in values]
    return [value / sum(shifted) for value in shifted]
