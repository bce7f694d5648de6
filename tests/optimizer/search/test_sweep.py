"""Weightings of several objectives, by hand."""

import math

import pytest

from optimizer.search.sweep import weightings
from optimizer.search_config import SweepConfig


def test_two_objectives_by_hand() -> None:
    found = weightings(2, SweepConfig(per_axis=5, ratio=81))
    # Factors x and 1 / x whose ratio is 81, 9, 1, 1 / 9 and 1 / 81.
    wanted = [(1, 1, None), (1 / 3, 3, 0), (3, 1 / 3, 0), (1 / 9, 9, 1), (9, 1 / 9, 2)]
    assert [one.factors for one in found] == [pytest.approx(pair[:2]) for pair in wanted]
    assert [one.after for one in found] == [pair[2] for pair in wanted]


def test_three_objectives_by_hand() -> None:
    found = weightings(3, SweepConfig(per_axis=3, ratio=100))
    assert found[0] == ((1.0, 1.0, 1.0), None)
    # The six corners of a hexagon, all as far from its middle as from each other.
    others = {tuple(round(factor, 9) for factor in one.factors) for one in found[1:]}
    assert others == {
        (a, b, c) for a in (0.1, 1, 10) for b in (0.1, 1, 10) for c in (0.1, 1, 10) if {a, b, c} == {0.1, 1, 10}
    }
    assert all(one.after == 0 for one in found[1:])


@pytest.mark.parametrize(("objectives", "count"), [(2, 9), (3, 61), (4, 489)])
def test_they_are_balanced_bounded_and_each_after_the_nearest(objectives: int, count: int) -> None:
    """61 is the number of points of a hexagon of 5 to a side, 1 + 6 (1 + 2 + 3 + 4); 489 sum to 0 in [-4, 4]^4."""
    config = SweepConfig()
    found = weightings(objectives, config)
    assert len({one.factors for one in found}) == len(found) == count
    logs = [[math.log(factor) for factor in one.factors] for one in found]
    assert all(abs(sum(log)) < 1e-9 for log in logs)
    assert max(math.exp(max(log) - min(log)) for log in logs) == pytest.approx(config.ratio)
    lengths = [math.hypot(*log) for log in logs]
    assert lengths == sorted(lengths)
    for number, one in enumerate(found):
        if one.after is None:
            assert number == 0
        else:
            nearest = min(math.dist(logs[number], other) for other in logs[:number])
            assert one.after < number
            assert math.dist(logs[number], logs[one.after]) == pytest.approx(nearest)
