import numpy as np
import pytest

from optimizer.search.descent import Descent, DescentState, Stage

TARGET = np.array([[1.0, -2.0, 0.3], [4.0, 0.0, 0.5]])


def slope(point: np.ndarray, picks: object, multipliers: object = ()) -> tuple[np.ndarray, list[bool]]:
    return 2 * (point - TARGET), [True, True]


def descent(**changes: object) -> Descent:
    settings = {"stages": [Stage(400, 0.1, np.eye(3))], "bound": 100.0, "sizes": [5, 3], "seed": 7} | changes
    return Descent(**settings)  # type: ignore[arg-type]


def test_it_reaches_the_minimum_of_a_bowl() -> None:
    reached = descent().advance(DescentState.start((2, 3), 0.5, 2), 400, slope)
    assert reached.point == pytest.approx(TARGET, abs=1e-3)


def test_first_step_is_adams() -> None:
    reached = descent().advance(DescentState.start((2, 3), 0.5, 2), 1, slope)
    assert reached.point == pytest.approx(0.5 - 0.1 * np.sign(slope(np.full((2, 3), 0.5), [])[0]), abs=1e-6)


def test_a_descent_that_was_saved_goes_on_exactly() -> None:
    start = DescentState.start((2, 3), 0.5, 2)
    whole = descent().advance(start, 100, slope)
    half = DescentState.from_json(descent().advance(start, 37, slope).to_json())
    assert np.array_equal(descent().advance(half, 100, slope).point, whole.point)


def test_bound_holds() -> None:
    reached = descent(bound=1.5).advance(DescentState.start((2, 3), 0.5, 2), 400, slope)
    assert np.abs(reached.point).max() == 1.5


def test_a_step_without_a_finite_gradient_tells_nothing() -> None:
    """It counts as one of gradient 0: Adam's means fade, and go on from what they were."""
    calls = iter(range(20))

    def broken(point: np.ndarray, picks: object, multipliers: object) -> tuple[np.ndarray, list[bool]]:
        told, right = slope(point, picks)
        call = next(calls)
        return np.full_like(told, {3: np.nan, 4: np.inf}[call]) if call in (3, 4) else told, right

    calm = iter(range(20))

    def without(point: np.ndarray, picks: object, multipliers: object) -> tuple[np.ndarray, list[bool]]:
        told, right = slope(point, picks)
        return told * (next(calm) not in (3, 4)), right

    start = DescentState.start((2, 3), 0.5, 2)
    reached = descent().advance(start, 20, broken)
    assert np.array_equal(reached.point, descent().advance(start, 20, without).point)
    assert np.isfinite(reached.point).all()


def test_each_term_visits_all_its_examples_each_round_in_a_new_order() -> None:
    picks = [descent(sizes=[5, 3]).picks(step) for step in range(15)]
    rounds = [[picks[step][0] for step in range(start, start + 5)] for start in (0, 5, 10)]
    assert [sorted(one) for one in rounds] == [list(range(5))] * 3
    assert rounds[0] != rounds[1]
    assert sorted(picks[step][1] for step in range(3)) == [0, 1, 2]


def test_groups_of_a_coarse_stage_move_together_and_finer_ones_go_on_from_there() -> None:
    together = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    stages = [Stage(200, 0.1, together), Stage(400, 0.1, np.eye(3))]
    start = DescentState.start((2, 3), 0.5, 2)
    coarse = descent(stages=stages).advance(start, 200, slope)
    assert np.array_equal(coarse.point[:, 0], coarse.point[:, 1])
    assert coarse.point == pytest.approx(np.array([[-0.5, -0.5, 0.3], [2.0, 2.0, 0.5]]), abs=1e-2)
    assert descent(stages=stages).advance(coarse, 600, slope).point == pytest.approx(TARGET, abs=1e-3)


def test_a_descent_saved_at_the_end_of_a_stage_goes_on_exactly() -> None:
    stages = [Stage(20, 0.1, np.ones((1, 3))), Stage(30, 0.1, np.eye(3))]
    whole = descent(stages=stages).advance(DescentState.start((2, 3), 0.5, 2), 50, slope)
    for pause in (13, 20, 21):
        state = descent(stages=stages).advance(DescentState.start((2, 3), 0.5, 2), pause, slope)
        again = DescentState.from_json(state.to_json())
        assert np.array_equal(descent(stages=stages).advance(again, 50, slope).point, whole.point)


def test_a_terms_weight_grows_until_its_limit_is_kept() -> None:
    """One coefficient; a term pulls it to 0 and is wrong above 0.2, the other pulls it to 1."""
    told: list[float] = []

    def pulled(point: np.ndarray, _: object, multipliers: list[float]) -> tuple[np.ndarray, list[bool]]:
        told.append(multipliers[0])
        return multipliers[0] * 2 * point + 2 * (point - 1), [bool(point[0, 0] <= 0.2), True]

    settings = {"stages": [Stage(2000, 0.05, np.eye(1))], "sizes": [3, 3], "limits": [0.01, None]}
    reached = descent(**settings).advance(DescentState.start((1, 1), 0.5, 2), 2000, pulled)
    assert told[:500] == [1.0] * 500, "a quarter of the steps is left alone"
    assert reached.point[0, 0] == pytest.approx(0.2, abs=0.03)
    assert reached.multipliers[0] == pytest.approx(4, abs=0.7)  # 1 / (1 + m) = 0.2
    assert reached.multipliers[1] == 1
    assert min(told) == 1


def test_multipliers_survive_being_saved() -> None:
    state = DescentState.start((2, 3), 0.5, 2)
    state.multipliers[0] = 3.5
    assert DescentState.from_json(state.to_json()).multipliers.tolist() == [3.5, 1.0]
