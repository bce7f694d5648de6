"""Shapley values (Shapley 1953): what each player adds to a game's value, averaged over all orders of joining.

Exact for a few players. For more, orders are drawn in antithetic pairs, each with its reverse (Mitchell et al. 2022,
arXiv 2104.12199): where one adds a player early the other adds it late, which evens out much of the noise.
"""

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np

from optimizer.merging.space import Coefficients

#: Up to so many players every coalition is evaluated.
EXACT = 6

#: The players that joined -> what that is worth, [measures].
Game = Callable[[frozenset[int]], Coefficients]


@dataclass(frozen=True)
class Shapley:
    """What each player adds.

    Attributes:
        values: [players, measures]; they add up to the value of all players less that of none.
        errors: standard errors, same shape; zero if every coalition was evaluated.
        coalitions: how many were evaluated.
    """

    values: Coefficients
    errors: Coefficients
    coalitions: int


def shapley(players: int, game: Game, pairs: int, seed: int) -> Shapley:
    """Shapley values of all players.

    Args:
        game: evaluated once for each coalition that is needed.
        pairs: of orders that are drawn, at least 2, where there are more than six players.
        seed: of these.
    """
    known = cache(game)
    if players <= EXACT:
        values = np.stack([_exact(player, players, known) for player in range(players)])
        return Shapley(values, np.zeros_like(values), known.cache_info().currsize)
    rng = random.Random(seed)
    orders = [rng.sample(range(players), players) for _ in range(pairs)]
    drawn = np.stack([(_along(order, known) + _along(order[::-1], known)) / 2 for order in orders])
    errors = drawn.std(0, ddof=1) / math.sqrt(pairs)
    return Shapley(drawn.mean(0), errors, known.cache_info().currsize)


def _exact(player: int, players: int, game: Game) -> Coefficients:
    """The definition: what it adds, first the mean over all others of one number before it, then over these numbers."""
    others = [one for one in range(players) if one != player]
    sizes = [
        np.mean([_added(player, before, game) for before in combinations(others, size)], 0) for size in range(players)
    ]
    return np.mean(sizes, 0)  # type: ignore[no-any-return]


def _added(player: int, before: Iterable[int], game: Game) -> Coefficients:
    return game(frozenset(before) | {player}) - game(frozenset(before))


def _along(order: list[int], game: Game) -> Coefficients:
    """What each player adds where they join in one order, [players, measures]."""
    worth = [game(frozenset(order[:size])) for size in range(len(order) + 1)]
    added = np.diff(np.stack(worth), axis=0)
    return added[np.argsort(order)]
