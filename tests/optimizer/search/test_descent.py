import numpy as np
import pytest

from optimizer.search.descent import Descent, DescentState

TARGET = np.array([[1.0, -2.0, 0.3], [4.0, 0.0, 0.5]])


def slope(point: np.ndarray, picks: object) -> np.ndarray:
    return 2 * (point - TARGET)


def descent(**changes: object) -> Descent:
    settings = {"steps": 400, "rate": 0.1, "bound": 100.0, "sizes": [5, 3], "seed": 7} | changes
    return Descent(**settings)  # type: ignore[arg-type]


def test_it_reaches_the_minimum_of_a_bowl() -> None:
    reached = descent().advance(DescentState.start((2, 3), 0.5), 400, slope)
    assert reached.point == pytest.approx(TARGET, abs=1e-3)


def test_first_step_is_adams() -> None:
    reached = descent().advance(DescentState.start((2, 3), 0.5), 1, slope)
    assert reached.point == pytest.approx(0.5 - 0.1 * np.sign(slope(np.full((2, 3), 0.5), [])), abs=1e-6)


def test_a_descent_that_was_saved_goes_on_exactly() -> None:
    start = DescentState.start((2, 3), 0.5)
    whole = descent().advance(start, 100, slope)
    half = DescentState.from_json(descent().advance(start, 37, slope).to_json())
    assert np.array_equal(descent().advance(half, 100, slope).point, whole.point)


def test_bound_holds() -> None:
    reached = descent(bound=1.5).advance(DescentState.start((2, 3), 0.5), 400, slope)
    assert np.abs(reached.point).max() == 1.5


def test_each_term_visits_all_its_examples_each_round_in_a_new_order() -> None:
    picks = [descent(sizes=[5, 3]).picks(step) for step in range(15)]
    rounds = [[picks[step][0] for step in range(start, start + 5)] for start in (0, 5, 10)]
    assert [sorted(one) for one in rounds] == [list(range(5))] * 3
    assert rounds[0] != rounds[1]
    assert sorted(picks[step][1] for step in range(3)) == [0, 1, 2]
