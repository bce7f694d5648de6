"""Every sampler stays in its box, and a study that is taken up again goes on as if it had not been left."""

import warnings

import numpy as np
import optuna
import pytest
from pydantic import ValidationError

from optimizer.merging.space import Space
from optimizer.search import samplers
from optimizer.search.domain import Domain
from optimizer.search.samplers import BlackBox, settings_of
from optimizer.search_config import SINGLE_OBJECTIVE, BlackBoxConfig, SearchConfig

SPACE = Space.named(["math", "code"], [f"model.layers.{i}.mlp.up_proj.weight" for i in range(3)], "layer")
TARGET = np.array([[0.2, 0.9, 0.5], [0.7, 0.1, 0.4]])
SAMPLERS = ("evomm", "cmaes", "tpe", "gp", "nsga2", "nsga3", "qmc", "random")
SEVERAL = tuple(name for name in SAMPLERS if name not in SINGLE_OBJECTIVE)


def domain_of(config: SearchConfig) -> Domain:
    settings = settings_of(config)
    return Domain.box(SPACE, (settings.low, settings.high), config.parameters, {"density": 0.25})


def study_of(
    config: SearchConfig, storage: optuna.storages.BaseStorage, trials: int, objectives: int = 1
) -> list[list[float]]:
    """Runs a study on a bowl until it has so many trials, and gives all points."""
    study = optuna.create_study(
        storage=storage, study_name="bowl", load_if_exists=True, directions=["minimize"] * objectives
    )
    domain = domain_of(config)
    uniform = domain.parameters(np.full(SPACE.shape, 0.5))
    box = BlackBox(config.sampler, config.seed, uniform, settings_of(config).sigma)
    for number in range(len(study.trials), trials):
        study.sampler = box.sampler(domain, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = study.ask(domain.ranges)
        loss = float(((SPACE.from_parameters(trial.params) - TARGET) ** 2).mean())
        study.tell(trial, [loss, trial.params["math/layer 0"] ** 2][:objectives])
    return [list(trial.params.values()) for trial in study.trials]


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_study_taken_up_again_has_the_same_trials(name: str) -> None:
    config = SearchConfig(sampler=name, seed=3)  # type: ignore[arg-type]
    whole = study_of(config, optuna.storages.InMemoryStorage(), 14)
    storage = optuna.storages.InMemoryStorage()
    for trials in (3, 8, 14):
        points = study_of(config, storage, trials)
    assert np.array_equal(points, whole)
    settings = settings_of(config)
    assert np.min(whole) >= settings.low
    assert np.max(whole) <= settings.high


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name not in ("qmc", "random")])
def test_what_is_suggested_together_is_what_optuna_would_find_out(name: str) -> None:
    config = SearchConfig(sampler=name, parameters={"density": (0.1, 0.9)})  # type: ignore[arg-type]
    storage = optuna.storages.InMemoryStorage()
    study_of(config, storage, 3)
    study, domain = optuna.load_study(study_name="bowl", storage=storage), domain_of(config)
    sampler = BlackBox(name, 0, {}, 0.1).sampler(domain, 3)
    found = sampler.infer_relative_search_space(study, study.trials[-1])
    assert list(found.items()) == list(domain.joint.items()), "in the same order, too"


@pytest.mark.parametrize("name", SEVERAL)
def test_so_has_one_of_several_objectives_and_hyper_parameters(name: str) -> None:
    config = SearchConfig(sampler=name, seed=3, parameters={"density": (0.2, 0.3)})  # type: ignore[arg-type]
    whole = study_of(config, optuna.storages.InMemoryStorage(), 12, objectives=2)
    storage = optuna.storages.InMemoryStorage()
    for trials in (5, 12):
        points = study_of(config, storage, trials, objectives=2)
    assert points == whole
    assert all(0.2 <= point[-1] <= 0.3 for point in whole)


def test_a_population_breeds_from_what_was_told() -> None:
    """NSGA-II's population is 50: after it, children of the best are nearer to the target than chance is."""
    config = SearchConfig(sampler="nsga2", seed=0)
    points = np.array(study_of(config, optuna.storages.InMemoryStorage(), 150)) - TARGET.flatten()
    first, last = (np.square(some).mean() for some in (points[:50], points[100:]))
    assert last < 0.6 * first


def test_cma_begins_at_its_start_with_its_step_size() -> None:
    """Steps are in the coefficients' own unit, whatever the box: Optuna's CMA-ES works on the unit cube."""
    config = SearchConfig(sampler="cmaes", black_box=BlackBoxConfig(low=-3, high=5, sigma=0.05))
    points = np.array(study_of(config, optuna.storages.InMemoryStorage(), 10))[1:]  # the first is drawn at random
    assert points.mean() == pytest.approx(0.5, abs=0.05)
    assert points.std() == pytest.approx(0.05, abs=0.02)


def test_cma_needs_the_last_generation_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SearchConfig(sampler="cmaes", seed=3)
    monkeypatch.setattr(samplers, "_LATE", 0)
    points = study_of(config, optuna.storages.InMemoryStorage(), 80)
    monkeypatch.delattr(samplers._Evolving, "_get_trials")
    monkeypatch.delattr(samplers._Evolving, "_restore_optimizer")
    assert study_of(config, optuna.storages.InMemoryStorage(), 80) == points


def test_cma_updates_once_a_generation_whoever_is_under_way() -> None:
    """Of 40 workers; a generation is 9 trials in six dimensions, the first trial is drawn at random."""
    config = SearchConfig(sampler="cmaes", seed=3)
    study, domain = optuna.create_study(), domain_of(config)
    box = BlackBox("cmaes", 3, domain.parameters(np.full(SPACE.shape, 0.5)), 0.2)
    under_way: list[optuna.Trial] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(240):
            study.sampler = box.sampler(domain, number)
            under_way.append(study.ask(domain.ranges))
            if len(under_way) == 40:
                trial = under_way.pop(0)
                study.tell(trial, float(((SPACE.from_parameters(trial.params) - TARGET) ** 2).mean()))
    begun = [trial.system_attrs for trial in study.trials if "cma:optimizer:0" in trial.system_attrs]
    generations = [attrs["cma:generation"] for attrs in begun]
    assert generations == sorted(set(generations))
    assert generations[-1] > 3


@pytest.mark.parametrize("name", ["evomm", "cmaes", "tpe", "random"])
def test_another_seed_gives_other_trials(name: str) -> None:
    one, other = (
        study_of(SearchConfig(sampler=name, seed=seed), optuna.storages.InMemoryStorage(), 4)  # type: ignore[arg-type]
        for seed in (0, 1)
    )
    assert not np.array_equal(one, other)


def test_evomm_is_as_in_the_paper() -> None:
    config = SearchConfig(sampler="evomm", black_box=BlackBoxConfig(low=-3, high=3))
    assert (settings_of(config).low, settings_of(config).high) == (0, 1)
    points = np.array(study_of(config, optuna.storages.InMemoryStorage(), 400))
    first = points[1 : 1 + 9]  # Optuna draws the very first trial at random; a population is 4 + floor(3 ln 6) = 9
    assert first.mean() == pytest.approx(0.5, abs=0.1)
    assert first.std() == pytest.approx(1 / 6, abs=0.06)
    assert np.abs(points[-9:] - TARGET.flatten()).max() < 0.05


def test_patience_and_budget_of_evomm_are_the_configs() -> None:
    given = BlackBoxConfig(trials=7, patience=3, low=-3, sigma=2)
    found = settings_of(SearchConfig(sampler="evomm", black_box=given))
    assert (found.trials, found.patience, found.low, found.sigma) == (7, 3, 0, 1 / 6)
    assert settings_of(SearchConfig(sampler="cmaes", black_box=given)) == given


def test_every_source_is_a_point_of_the_search() -> None:
    with pytest.raises(ValidationError, match=r"every source is a point of the search, but got 0\.1 and 1\.0"):
        BlackBoxConfig(low=0.1, high=1)
