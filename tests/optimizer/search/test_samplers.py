"""Every sampler stays in its box, and a study that is taken up again goes on as if it had not been left."""

import warnings

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from pydantic import ValidationError

from optimizer.config import BlackBoxConfig, SearchConfig
from optimizer.merging.space import Coefficients, Space
from optimizer.search.samplers import box_of, sampler_of

SPACE = Space.named(["math", "code"], [f"model.layers.{i}.mlp.up_proj.weight" for i in range(3)], "layer")
TARGET = np.array([[0.2, 0.9, 0.5], [0.7, 0.1, 0.4]])
SAMPLERS = ("evomm", "cmaes", "tpe", "gp", "qmc", "random")


def study_of(config: SearchConfig, storage: optuna.storages.BaseStorage, trials: int) -> list[Coefficients]:
    """Runs a study on a bowl until it has so many trials, and gives all points."""
    study = optuna.create_study(storage=storage, study_name="bowl", load_if_exists=True)
    ranges = {name: FloatDistribution(*box_of(config)) for name in SPACE.parameters}
    for number in range(len(study.trials), trials):
        study.sampler = sampler_of(config, SPACE, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = study.ask(ranges)
        study.tell(trial, float(((SPACE.from_parameters(trial.params) - TARGET) ** 2).mean()))
    return [SPACE.from_parameters(trial.params) for trial in study.trials]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_study_taken_up_again_has_the_same_trials(name: str) -> None:
    config = SearchConfig(sampler=name, seed=3)  # type: ignore[arg-type]
    whole = study_of(config, optuna.storages.InMemoryStorage(), 14)
    storage = optuna.storages.InMemoryStorage()
    for trials in (3, 8, 14):
        points = study_of(config, storage, trials)
    assert np.array_equal(points, whole)
    low, high = box_of(config)
    assert np.min(whole) >= low
    assert np.max(whole) <= high


@pytest.mark.parametrize("name", ["evomm", "cmaes", "tpe", "random"])
def test_another_seed_gives_other_trials(name: str) -> None:
    one, other = (
        study_of(SearchConfig(sampler=name, seed=seed), optuna.storages.InMemoryStorage(), 4)  # type: ignore[arg-type]
        for seed in (0, 1)
    )
    assert not np.array_equal(one, other)


def test_evomm_is_as_in_the_paper() -> None:
    config = SearchConfig(sampler="evomm", black_box=BlackBoxConfig(low=-3, high=3))
    assert box_of(config) == (0, 1)
    points = np.array(study_of(config, optuna.storages.InMemoryStorage(), 400))
    first = points[1 : 1 + 9]  # Optuna draws the very first trial at random; a population is 4 + floor(3 ln 6) = 9
    assert first.mean() == pytest.approx(0.5, abs=0.1)
    assert first.std() == pytest.approx(1 / 6, abs=0.06)
    assert np.abs(points[-9:] - TARGET).max() < 0.05


def test_every_source_is_a_point_of_the_search() -> None:
    with pytest.raises(ValidationError, match=r"every source is a point of the search, but got 0\.1 and 1\.0"):
        BlackBoxConfig(low=0.1, high=1)
