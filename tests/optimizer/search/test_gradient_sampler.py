"""The descent as a sampler: Optuna's own contract, and that it suggests what it reached."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase

from optimizer.merging.space import Coefficients, Space
from optimizer.search.descent import Descent, DescentState, Stage
from optimizer.search.sampler import LEG, STATE, STEPS, GradientSampler, Leg

SPACE = Space.named(["math", "code"], [f"model.layers.{i}.mlp.up_proj.weight" for i in range(3)], "layer")
TARGET = np.array([[0.2, 0.9, -3.0], [0.7, 0.1, 0.4]])
RANGES: dict[str, BaseDistribution] = {name: FloatDistribution(-100, 100) for name in SPACE.parameters}


Gradient = Callable[[Coefficients, Sequence[int], Sequence[float]], tuple[Coefficients, Sequence[bool]]]


def slope(point: Coefficients, _: Sequence[int], __: Sequence[float]) -> tuple[Coefficients, Sequence[bool]]:
    return 2 * (point - TARGET), [True]


def descent(steps: int) -> Descent:
    return Descent([Stage(steps, 0.1, np.eye(3))], bound=100.0, sizes=[4], seed=0)


def made(gradient: Gradient = slope) -> GradientSampler:
    return GradientSampler(SPACE, [Leg(descent(400), trials=8)], start=0.5, gradient=gradient)


class TestOptunasContract(BasicSamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return made


def tell_one(study: optuna.Study) -> optuna.trial.FrozenTrial:
    trial = study.ask(RANGES)
    return study.tell(trial, float(((SPACE.from_parameters(trial.params) - TARGET) ** 2).mean()))


def test_each_trial_is_a_point_further_down() -> None:
    study = optuna.create_study(sampler=made())
    losses = [tell_one(study).value or 0.0 for _ in range(8)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 1e-6


@pytest.mark.parametrize("state", [optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.COMPLETE])
def test_it_goes_on_from_pruned_trials_and_past_failed_ones(state: optuna.trial.TrialState) -> None:
    undisturbed, study = optuna.create_study(sampler=made()), optuna.create_study(sampler=made())
    wanted = [tell_one(undisturbed).params for _ in range(3)]
    tell_one(study)
    study.tell(study.ask(RANGES), state=optuna.trial.TrialState.FAIL)
    second = study.ask(RANGES)
    study.tell(second, *([1.0] if state == optuna.trial.TrialState.COMPLETE else []), state=state)
    assert second.params == wanted[1], "a failed trial's stretch is run again"
    assert tell_one(study).params == wanted[2]


def test_a_finished_descent_stays_where_it_is() -> None:
    calls: list[int] = []

    def counted(point: Coefficients, *step: Sequence[float]) -> tuple[Coefficients, Sequence[bool]]:
        calls.append(1)
        return slope(point, [], [])

    study = optuna.create_study(sampler=made(counted))
    trials = [tell_one(study) for _ in range(10)]
    assert len(calls) == 400
    assert trials[7].params == trials[8].params == trials[9].params


@pytest.mark.parametrize(("steps", "trials", "stretch", "suggestions"), [(10, 4, 3, 4), (12, 5, 3, 4), (3, 8, 1, 3)])
def test_a_leg_is_cut_into_even_stretches(steps: int, trials: int, stretch: int, suggestions: int) -> None:
    leg = Leg(descent(steps), trials)
    assert (leg.stretch, leg.suggestions) == (stretch, suggestions)


#: A whole descent, one after it, one after the first again, and one after the second.
LEGS = [
    Leg(descent(60), 3, (1.0,)),
    Leg(descent(10), 1, (2.0,), after=0),
    Leg(descent(10), 2, (0.5,), after=0),
    Leg(descent(7), 1, (4.0,), after=1),
]


def test_each_leg_begins_at_the_end_of_the_one_it_comes_after() -> None:
    told: list[tuple[float, Coefficients]] = []

    def watched(
        point: Coefficients, _: Sequence[int], multipliers: Sequence[float]
    ) -> tuple[Coefficients, Sequence[bool]]:
        told.append((multipliers[0], point))
        return slope(point, (), ())

    study = optuna.create_study(sampler=GradientSampler(SPACE, LEGS, 0.5, watched))
    trials = [tell_one(study) for _ in range(8)]
    assert [trial.system_attrs[LEG] for trial in trials] == [0, 0, 0, 1, 2, 2, 3, 3]
    assert [trial.system_attrs[STEPS] for trial in trials] == [20, 20, 20, 10, 5, 5, 7, 0], "the last one is over"
    assert [factor for factor, _ in told] == [1.0] * 60 + [2.0] * 10 + [0.5] * 10 + [4.0] * 7
    ends = {number: SPACE.from_parameters(trials[number].params) for number in (2, 3)}
    begun = {leg: told[place][1] for leg, place in ((0, 0), (1, 60), (2, 70), (3, 80))}
    assert (begun[0] == 0.5).all()
    assert np.array_equal(begun[1], ends[2])
    assert np.array_equal(begun[2], ends[2])
    assert np.array_equal(begun[3], ends[3])
    alone = descent(10).advance(DescentState(0, ends[2], np.zeros((2, 3)), np.zeros((2, 3)), np.ones(1)), 10, slope)
    assert np.array_equal(SPACE.from_parameters(trials[5].params), alone.point)


def test_legs_taken_up_again_give_the_same_trials(tmp_path: Path) -> None:
    def run(storage: optuna.storages.BaseStorage, trials: int) -> list[dict[str, float]]:
        for _ in range(trials):
            sampler = GradientSampler(SPACE, LEGS, 0.5, slope)
            study = optuna.create_study(storage=storage, study_name="legs", load_if_exists=True, sampler=sampler)
            tell_one(study)
        return [trial.params for trial in study.trials]

    whole = optuna.create_study(sampler=GradientSampler(SPACE, LEGS, 0.5, slope))
    wanted = [tell_one(whole).params for _ in range(7)]
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path}/study.db")
    assert run(storage, 3) == wanted[:3]
    left = optuna.load_study(study_name="legs", storage=storage, sampler=GradientSampler(SPACE, LEGS, 0.5, slope))
    unfinished = left.ask(RANGES)
    again = optuna.trial.Trial(left, unfinished._trial_id)
    left.tell(again, 1.0)
    assert run(storage, 3) == wanted
    assert storage.get_trial(unfinished._trial_id).system_attrs[STATE]["step"] == 10


def test_duals_go_from_leg_to_leg() -> None:
    """The term is always wrong, and never may be: its dual variable grows by .1 a step from a quarter of a leg on."""
    limited = [
        Leg(Descent([Stage(8, 0.1, np.eye(3))], 100.0, [4], 0, limits=[0.0]), 1),
        Leg(Descent([Stage(4, 0.1, np.eye(3))], 100.0, [4], 0, limits=[0.0]), 1, (1.0,), after=0),
    ]
    sampler = GradientSampler(SPACE, limited, 0.5, lambda point, *_: (slope(point, (), ())[0], [False]))
    study = optuna.create_study(sampler=sampler)
    ends = [tell_one(study).system_attrs[STATE]["multipliers"] for _ in range(2)]
    assert ends == [[pytest.approx(1.6)], [pytest.approx(1.9)]]
