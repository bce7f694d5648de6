"""The descent as a sampler: Optuna's own contract, and that it suggests what it reached."""

from collections.abc import Callable, Sequence

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase

from optimizer.merging.space import Coefficients, Space
from optimizer.search.descent import Descent, Stage
from optimizer.search.sampler import GradientSampler

SPACE = Space.named(["math", "code"], [f"model.layers.{i}.mlp.up_proj.weight" for i in range(3)], "layer")
TARGET = np.array([[0.2, 0.9, -3.0], [0.7, 0.1, 0.4]])
RANGES: dict[str, BaseDistribution] = {name: FloatDistribution(-100, 100) for name in SPACE.parameters}


Gradient = Callable[[Coefficients, Sequence[int], Sequence[float]], tuple[Coefficients, Sequence[bool]]]


def slope(point: Coefficients, _: Sequence[int], __: Sequence[float]) -> tuple[Coefficients, Sequence[bool]]:
    return 2 * (point - TARGET), [True]


def made(gradient: Gradient = slope) -> GradientSampler:
    descent = Descent([Stage(400, 0.1, np.eye(3))], bound=100.0, sizes=[4], seed=0)
    return GradientSampler(SPACE, descent, stretch=50, start=0.5, gradient=gradient)


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
