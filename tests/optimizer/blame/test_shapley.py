"""Shapley values are those of games that are solved by hand."""

import numpy as np
import pytest

from optimizer.blame.shapley import EXACT, shapley
from optimizer.merging.space import Coefficients


def gloves(joined: frozenset[int]) -> Coefficients:
    # Players 0 and 1 have a left glove each, player 2 a right one; a pair is worth 1.
    return np.array([float(2 in joined and bool(joined & {0, 1}))])


def squared(joined: frozenset[int]) -> Coefficients:
    # Player i is worth i + 1; together they are worth the square of their sum, and the sum itself.
    total = float(sum(i + 1 for i in joined))
    return np.array([total**2, total])


def test_glove_game_by_the_textbook() -> None:
    found = shapley(3, gloves, 2, 0)
    np.testing.assert_allclose(found.values[:, 0], [1 / 6, 1 / 6, 4 / 6])
    assert (found.coalitions, found.errors.max()) == (8, 0.0)


@pytest.mark.parametrize("players", [4, EXACT + 2])
def test_square_of_a_sum(players: int) -> None:
    # By hand: w_i times the sum of all. An order and its reverse give that exactly.
    worth = np.arange(1.0, players + 1)
    found = shapley(players, squared, 2, 0)
    np.testing.assert_allclose(found.values, np.stack([worth * worth.sum(), worth], 1))
    np.testing.assert_allclose(found.errors, 0.0, atol=1e-9)


def cubed(joined: frozenset[int]) -> Coefficients:
    return np.array([float(sum(i + 1 for i in joined)) ** 4])


def test_sampled_values_add_up_and_lie_within_their_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    sampled = shapley(8, cubed, 64, 0)
    assert sampled.values.sum() == pytest.approx(cubed(frozenset(range(8)))[0])
    monkeypatch.setattr("optimizer.blame.shapley.EXACT", 8)
    exact = shapley(8, cubed, 64, 0)
    assert exact.coalitions == 256
    off = np.abs(sampled.values - exact.values) / sampled.errors
    assert 0 < off.max() < 4
    assert shapley(8, cubed, 64, 0).values.tolist() == exact.values.tolist()


def test_orders_are_those_of_the_seed() -> None:
    first, again, other = (shapley(8, cubed, 4, seed).values.tolist() for seed in (0, 0, 1))
    assert first == again != other
